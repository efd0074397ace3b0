"""The data of a job: rows, prompts as tokens, collaborative vectors, the language model and its frozen states."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from decathlon.build import build, check_options
from decathlon.errors import ConfigError
from decathlon.language.decoder import check_positions
from decathlon.language.tokens import batches, pad
from decathlon.randomness import generator
from decathlon.tasks.cora.collaborative import Collaborative, check_collaborative, trained
from decathlon.tasks.cora.decoder import DecoderTraining, load_model
from decathlon.tasks.cora.frozen import DTYPES, Frozen, compute, frozen_states
from decathlon.tasks.cora.log import Chosen, Log, choose
from decathlon.tasks.cora.methods import Batch, Method, Sizes
from decathlon.tasks.cora.order import BucketOrder, Steps
from decathlon.tasks.cora.prompts import Template, answers, tokenised
from decathlon.tasks.cora.sources import check_source, read

log = logging.getLogger(__name__)


def check_method(method: Mapping[str, Any]) -> Method:
    """The method of a config, its options checked."""
    made = build({key: value for key, value in method.items() if key != "trains"}, called="method")
    if not isinstance(made, Method):
        raise ConfigError(f"method={method.get('name')}: {method['class']} is no decathlon.tasks.cora.methods.Method")
    return made


class RecommendationData(LightningDataModule):
    """Rows of a log as a language model sees them.

    Args:
        root: data folder. dataset: config: ``source`` and its ``options``, ``words``, ``collaborative`` (options by
            model). method: config.
        model, dtype, decoder: the language model; ``decoder`` holds options of the catalogue's own.
        history, newline: of the prompts, see :class:`~.prompts.Template`.
        train_rows, valid_rows, test_users, test_rows: which rows the language model sees, see :func:`~.log.choose`.
        data_seed: of generated data, random splits and these draws. cf_seed: of the collaborative models.
        batch_size, iterations: rows of a step, steps of an epoch. max_tokens: of a batch that is scored.
        valid_share: a validation costs at most this share of an epoch's training.
        cache_dtype: of the frozen states; null: they are not kept, and every block is run for every row.
        seed: of the order of training and of the permuted control.
    """

    def __init__(
        self, root: str | Path, dataset: dict[str, Any], method: dict[str, Any], model: str, dtype: str = "float32",
        decoder: dict[str, Any] | None = None, history: int = 10, newline: str = "literal",
        train_rows: int | None = None, valid_rows: int | None = None, test_users: int | None = None,
        test_rows: int | None = None, data_seed: int = 0, cf_seed: int = 0, batch_size: int = 8, iterations: int = 100,
        max_tokens: int = 4096, valid_share: float = 1.0, cache_dtype: str | None = "float32", seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_source(dataset)
        self.method = check_method(method)
        counts = {
            "train_rows": train_rows, "valid_rows": valid_rows, "test_users": test_users, "test_rows": test_rows,
            "batch_size": batch_size, "iterations": iterations, "max_tokens": max_tokens,
        }  # fmt: skip
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ConfigError(f"{name}={count} must be at least 1")
        if cache_dtype is not None and cache_dtype not in DTYPES:
            raise ConfigError(f"cache_dtype={cache_dtype} is unknown; choose {', '.join(DTYPES)}, or null")
        if valid_share <= 0:
            raise ConfigError(f"valid_share={valid_share} must be positive")
        self.collaborative_options = dict(dataset.get("collaborative") or {})
        for name in {self.method.collaborative, "mf"} - {""}:
            check_collaborative(name, self.collaborative_options.get(name) or {})
        if decoder and model == "catalogue":
            check_options(DecoderTraining, decoder, "decoder")
            DecoderTraining(**decoder)
        self.template: dict[str, Any] = {"history": history, "newline": newline}
        Template(**self.template)
        self.root, self.dataset = Path(root), dataset
        self.model_options: dict[str, Any] = {"name": model, "dtype": dtype}
        if model == "catalogue":
            self.model_options["training"] = decoder
        self.wanted = {"train": train_rows, "valid": valid_rows, "test_users": test_users, "test_rows": test_rows}
        self.data_seed, self.cf_seed, self.seed = int(data_seed), int(cf_seed), int(seed)
        self.batch_size, self.iterations, self.max_tokens = int(batch_size), int(iterations), int(max_tokens)
        self.valid_share, self.cache_dtype = float(valid_share), cache_dtype
        self.log: Log | None = None
        self._read: Log | None = None
        self.llm: Any = None
        self._prompts: dict[str, list[list[int]]] = {}
        self._frozen: dict[int, Frozen] = {}

    def fetch_data(self) -> None:
        """Fetch and check the rows, without training anything."""
        read(self.root, self.dataset, self.data_seed)

    def prepare_data(self) -> None:
        """Train, once, the collaborative models and the catalogue's decoder."""
        self._read = read(self.root, self.dataset, self.data_seed)
        self._collaborative_models(self._read)
        if self.method.uses_llm:
            self.language_model()

    def setup(self, stage: str | None = None) -> None:
        if self.log is not None:
            return
        self.log = self._read or read(self.root, self.dataset, self.data_seed)
        self.template["words"] = self.log.words
        self.chosen: Chosen = choose(self.log, seed=self.data_seed, **self.wanted)
        self.rows = torch.cat([self.chosen.train, self.chosen.valid, self.chosen.test])
        counts = [len(self.chosen.train), len(self.chosen.valid), len(self.chosen.test)]
        self.places = dict(zip(("train", "valid", "test"), torch.arange(len(self.rows)).split(counts)))
        if stage in (None, "fit"):
            log.info("rows: %d of %d for training, %d for validation, %d for the test",
                     counts[0], len(self.log.rows(0)), counts[1], counts[2])  # fmt: skip
        self.models = self._collaborative_models(self.log)
        self.sources = self._vector_sources()
        if self.method.uses_llm:
            self.llm, self.tokenizer, self.answers = self.language_model()
            self._measure()
            self.order = BucketOrder(self.lengths[self.places["train"]], self.batch_size, self.seed)

    def ask(self, asked: Log, rows: Tensor) -> None:
        """Take other rows in the place of those that were chosen, as the part ``test``; needs ``models`` and ``llm``.

        Args:
            asked: the log that the models were trained on, with more rows (``Log.asked``). rows: (m,) int64, positions.
        """
        self.log, self.rows, self.sources = asked, rows, rows
        self.template["words"] = asked.words
        self.places = {"test": torch.arange(len(rows))}
        self._prompts, self._frozen = {}, {}
        for model in self.models.values():
            model.log = asked
        if self.method.uses_llm:
            self._measure()

    def _measure(self) -> None:
        """The lengths of the prompts, which the language model must be able to read."""
        self.lengths = torch.tensor([len(ids) for ids in self.prompts(self.last_prompt)])
        try:
            check_positions(self.llm, int(self.lengths.max()))
        except ValueError as error:
            raise ConfigError(f"model={self.model_options['name']}: {error}; lower history") from error

    def language_model(self) -> tuple[Any, Any, tuple[int, int]]:
        """The language model, its tokenizer, and the tokens of its answers."""
        try:
            llm, tokenizer = load_model(root=self.root, **self.model_options)
            return llm, tokenizer, answers(tokenizer)
        except ValueError as error:
            raise ConfigError(f"model={self.model_options['name']}: {error}") from error

    def _collaborative_models(self, rows: Log) -> dict[str, Collaborative]:
        names = sorted({self.method.collaborative, "mf"} - {""})
        options = self.collaborative_options
        return {name: trained(self.root, rows, name, options.get(name) or {}, self.cf_seed) for name in names}

    def _vector_sources(self) -> Tensor:
        """The row of the log whose pair gives the vectors of each place: its own, or another one of the same part."""
        if not self.method.permuted:
            return self.rows
        sources = self.rows.clone()
        for name, places in self.places.items():
            order = torch.randperm(len(places), generator=generator("cora permuted", self.seed, name))
            sources[places] = self.rows[places[order]]
        return sources

    @property
    def sizes(self) -> Sizes:
        """What an adapter is made for."""
        assert self.log is not None
        size = self.models[self.method.collaborative].size if self.method.collaborative else 0
        return Sizes(self.log.user_count, self.log.item_count, size, size)

    @property
    def last_prompt(self) -> str:
        """The kind of prompt that is tested."""
        return self.method.stages[-1].prompt if self.method.stages else "text"

    def prompts(self, kind: str) -> list[list[int]]:
        """Token ids of the prompts of all places, tokenised once."""
        if kind not in self._prompts:
            assert self.log is not None
            titles = self.log.titles
            rows = [
                ([titles[item] for item in self.log.histories[row].tolist()], titles[int(self.log.items[row])])
                for row in self.rows.tolist()
            ]
            slots, codes = (self.method.slots, None) if kind != "text" else (0, None)
            if kind != "text" and self.method.codes:
                codes = self._codes()
            made = Template(kind, **self.template)
            self._prompts[kind] = tokenised(self.tokenizer, made, rows, slots=slots, codes=codes)
        return self._prompts[kind]

    def _codes(self) -> list[tuple[str, str]]:
        user, item = self.models[self.method.collaborative].frozen(self.rows)
        return [(as_code(u, self.method.codes), as_code(i, self.method.codes)) for u, i in zip(user, item)]

    def frozen(self, first: int | None, cached: bool = True) -> Frozen | None:
        """What enters block ``first`` of the frozen model for the text prompts, if that is worth keeping.

        Args:
            cached: whether to look it up in the data folder, and to keep it there.
        """
        kinds = {stage.prompt for stage in self.method.stages} or {"text"}
        if first is None or first < 1 or self.cache_dtype is None or "text" not in kinds:
            return None
        if first not in self._frozen:
            prompts, kept, most = self.prompts("text"), self.cache_dtype, self.max_tokens
            self._frozen[first] = (
                frozen_states(self.root, self.llm, self.tokenizer, prompts, first, self.answers, kept, most)
                if cached
                else compute(self.llm, prompts, first, self.answers, kept, most)
            )
        return self._frozen[first]

    def batch(self, places: Tensor, kind: str, device: torch.device, frozen: Frozen | None) -> Batch:
        """The rows at ``places`` with prompts of a kind."""
        assert self.log is not None
        rows = self.rows[places]
        prompts = self.prompts(kind)
        ids, mask = pad([[*prompts[place]] for place in places.tolist()])
        vectors = None
        if self.method.collaborative and not self.method.codes:
            user, item = self.models[self.method.collaborative].frozen(self.sources[places])
            vectors = user.to(device), item.to(device)
        return Batch(
            rows, ids.to(device), mask.sum(1).to(device), self.log.users[rows].to(device),
            self.log.items[rows].to(device), self.log.labels[rows].float().to(device), vectors,
            frozen.padded(places).to(device) if frozen is not None else None,
        )  # fmt: skip

    def alone(self, rows: Tensor) -> Tensor:
        """Scores of rows by a method without a language model, (m,) float64."""
        assert self.log is not None
        model = self.models.get(self.method.collaborative)
        return self.method.scores(self.log, self.chosen.train, rows, model).double()

    def scored(self, part: str) -> list[list[int]]:
        """Places of a part in batches of similar length; of a validation, as many as its share allows."""
        places = self.places[part]
        if part == "valid":
            # A training row costs about three times a scored one.
            most = max(int(3 * self.valid_share * self.iterations * self.batch_size), 2 * self.batch_size)
            if len(places) > most:
                drawn = torch.randperm(len(places), generator=generator("cora validation", self.data_seed))[:most]
                places = places[drawn.sort().values]
        if not self.method.uses_llm:
            return [places.tolist()]
        lengths = self.lengths[places].tolist()
        return [[int(places[i]) for i in group] for group in batches(lengths, self.max_tokens, waste=0.1)]

    def train_dataloader(self) -> DataLoader:
        warnings.filterwarnings("ignore", message=".*IterableDataset.*__len__.*")  # one process: no worker repeats it
        return DataLoader(Steps(self.iterations), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.scored("valid"), batch_size=None, collate_fn=torch.tensor)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.scored("test"), batch_size=None, collate_fn=torch.tensor)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Places are numbers of rows on the CPU."""
        return batch


def as_code(vector: Tensor, notation: str) -> str:
    """A vector of signs as text: ``bits``, or decimals of eight bits each (``dotted``)."""
    bits = "".join("1" if value > 0 else "0" for value in vector.tolist())
    if notation == "bits":
        return bits
    return ".".join(str(int(bits[start : start + 8], 2)) for start in range(0, len(bits), 8))
