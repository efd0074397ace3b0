"""The cases to edit and evaluate, as a LightningDataModule: a batch is a list of cases."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from decathlon.errors import ConfigError, DataError
from decathlon.files import cached
from decathlon.language import Bos
from decathlon.storage import digest
from decathlon.tasks.kele.cases import Case, Loaded
from decathlon.tasks.kele.data import counterfact, mquake, own
from decathlon.tasks.kele.data import known as data_known
from decathlon.tasks.kele.evaluation.protocol import Protocol, checked_bos
from decathlon.tasks.kele.models import ModelSpec
from decathlon.tasks.kele.world.cases import world_cases

log = logging.getLogger(__name__)
SOURCES = ("world", "mquake", "counterfact", "own")


class CaseList(Dataset[Case]):
    """Cases by index."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = list(cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Case:
        return self.cases[index]


class EditCases(L.LightningDataModule):
    """The cases of a dataset config.

    Args:
        root: the data folder.
        dataset: ``source`` (world, mquake, counterfact or own) and what belongs to it: ``people`` of the world,
            ``version`` and ``hops`` of MQuAKE, the ``file`` of your own edits, and the filter ``known`` (a rule of
            ``data_known``, or null) with ``scan``, the number of records that are tried.
        model, dtype, training: the world's model, or the one whose knowledge the filter asks, as in ``ModelSpec``.
        cases: how many cases to take; null: all.
        batch_size: cases whose edits are prepared together.
        seed: the world's seed.
        bos: how the filter's texts begin, ``auto`` or ``off``; null: as in the evaluation of the module that the
            trainer runs on these cases, or ``auto`` without one.

    The choice among more cases than wanted is ``dataset["pick"]``: ``first`` takes the first ones of the file,
    ``spread`` takes them evenly from all of it (MQuAKE is sorted by the number of hops).
    """

    def __init__(
        self,
        root: str,
        dataset: Mapping[str, Any],
        model: str,
        cases: int | None = None,
        batch_size: int = 16,
        seed: int = 0,
        dtype: str = "float32",
        training: Mapping[str, Any] | None = None,
        bos: str | bool | None = None,
    ) -> None:
        super().__init__()
        self.given_bos = bos if bos is None else checked_bos(bos)
        self.root = Path(root)
        self.dataset = dict(dataset)
        source = self.dataset.get("source")
        if source not in SOURCES:
            raise ConfigError(f"dataset.source={source} is none of {', '.join(SOURCES)}")
        if source == "own":
            if not self.dataset.get("file"):
                raise ConfigError("dataset=edits reads edits of yours: file=<path of a JSON file>")
        elif (source == "world") != (model == "world"):
            raise ConfigError(f"model={model} does not go with dataset={dataset['name']}: the world has its own model")
        if cases is not None and cases < 1:
            raise ConfigError(f"cases={cases}: at least one case, or null for all")
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        self.rule: str | None = self.dataset.get("known")
        if self.rule is not None and self.rule not in data_known.RULES:
            raise ConfigError(f"dataset.known={self.rule} is none of null, {', '.join(data_known.RULES)}")
        if self.rule in ("hops", "questions") and source != "mquake":
            raise ConfigError(f"dataset.known={self.rule} needs the chains of source=mquake")
        if self.dataset.get("pick", "first") not in ("first", "spread"):
            raise ConfigError(f"dataset.pick={self.dataset['pick']} is neither first nor spread")
        self.spec = ModelSpec(model, seed, training or {}, dtype)
        self.count, self.batch_size = cases, batch_size
        self.cases: list[Case] = []
        if source == "world":
            self._world_cases()  # a wrong number of cases shows before a model is trained
        elif source == "own":
            own_cases = self._load().cases  # and so does a wrong record
            if self.rule is not None and not all(edit.old for case in own_cases for edit in case.edits):
                raise ConfigError(f"dataset.known={self.rule} asks for the old object, which not every edit has")

    def prepare_data(self) -> None:
        """Train the world's model, fetch the files, find the known cases: each once, cached in the data folder."""
        if self.spec.is_world:
            self.spec.prepare(self.root)
        if self.dataset["source"] != "world":
            loaded = self._load()
            for reason, count in loaded.refused.items():
                log.warning("%s: %d records left out: %s", self.dataset["name"], count, reason)
            if self.rule is not None:
                self._known(loaded.cases)

    def setup(self, stage: str) -> None:
        """Read the cases."""
        if self.dataset["source"] == "world":
            self.cases = self._world_cases()
            return
        cases = self._load().cases
        if self.rule is not None:
            ids = set(self._known(cases))
            cases = [case for case in cases if case.id in ids]
            if not cases:
                raise DataError(f"{self.dataset['name']}: the model {self.spec.name} knows none of the facts")
        self.cases = pick(cases, self.count, self.dataset.get("pick", "first"))

    def test_dataloader(self) -> DataLoader[Case]:
        """Batches of cases, in order."""
        return DataLoader(CaseList(self.cases), batch_size=self.batch_size, collate_fn=list)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Cases are texts: nothing moves."""
        return batch

    def _world_cases(self) -> list[Case]:
        return world_cases(self.spec.world_training().world(), self.count, self.dataset.get("people", "composed"))

    def _load(self) -> Loaded:
        if self.dataset["source"] == "own":
            return own.load(self.root, str(self.dataset["file"]))
        if self.dataset["source"] == "counterfact":
            return counterfact.load(self.root)
        loaded = mquake.load(self.root, self.dataset.get("version", "cf-3k"))
        hops = self.dataset.get("hops")
        if hops:
            return Loaded([case for case in loaded.cases if case.hops in hops], loaded.refused)
        return loaded

    @property
    def bos(self) -> Bos:
        """How the filter's texts begin."""
        if self.given_bos is not None:
            return self.given_bos
        module = getattr(self.trainer, "lightning_module", None)
        return getattr(module, "bos", "auto")

    def _known(self, cases: Sequence[Case]) -> list[str]:
        """The ids that the filter keeps, from the cache or, once, from the model."""
        scanned = pick(cases, self.dataset.get("scan"), self.dataset.get("pick", "first"))
        bos = self.bos
        relations, shown = None, ""
        if self.rule in ("hops", "questions"):
            relations = json.loads(mquake.prompt_file(self.root, "relations").read_text(encoding="utf-8"))
            shown = demonstrations(self.root, "few_shot")
        note = {
            "rule": self.rule,
            "model": self.spec.key,
            "source": [self.dataset["source"], self.dataset.get("version"), self.dataset.get("hops")],
            "scanned": len(scanned),
            "bos": bos,
            "asked": digest([dataclasses.asdict(case) for case in scanned], relations, shown),
        }

        def make() -> list[str]:
            log.warning("asking %s which of %d cases it knows, once", self.spec.name, len(scanned))
            model, tokenizer = self.spec.load(self.root)
            protocol = Protocol(demonstrations=shown, bos=bos)
            ids = data_known.known(model, tokenizer, scanned, self.rule or "", relations, protocol, bos)
            log.info("it knows %d of them", len(ids))
            return ids

        def save(ids: list[str], path: Path) -> None:
            data_known.save_ids(ids, note, path)

        return cached(self.root / "kele" / f"known-{digest(note)}.json", make, save, data_known.load_ids)


def pick(cases: Sequence[Case], count: int | None, how: str) -> list[Case]:
    """``count`` of the cases (all if there are no more), the first ones or evenly spread, in order."""
    if count is None or count >= len(cases):
        return list(cases)
    if how == "first":
        return list(cases[:count])
    return [cases[index * len(cases) // count] for index in range(count)]


def demonstrations(root: str | Path, prompting: str) -> str:
    """MQuAKE's demonstrations for ``few_shot`` or ``cot``; empty for ``none``."""
    return "" if prompting == "none" else mquake.prompt_file(root, prompting).read_text(encoding="utf-8")
