"""Edit, evaluate, undo: one case after the other, as the ``test_step`` of a LightningModule."""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from decathlon.errors import ConfigError
from decathlon.rows import append, mend, read_rows, rows_path
from decathlon.storage import digest
from decathlon.tasks.kele.cases import Case
from decathlon.tasks.kele.data.datamodule import demonstrations
from decathlon.tasks.kele.editors.configured import answers_itself, check_method, make_editor
from decathlon.tasks.kele.evaluation.metrics import aggregate, quartiles
from decathlon.tasks.kele.evaluation.protocol import Protocol, checked_bos, evaluate
from decathlon.tasks.kele.models import ModelSpec
from decathlon.tasks.kele.trained import MODEL, UPDATES
from decathlon.tasks.kele.update import Update

log = logging.getLogger(__name__)


class EditEvaluation(L.LightningModule):
    """Evaluates one editing method on one model. Nothing is trained; a batch is a list of ``Case``.

    The updates of a batch are prepared together. Each case's edits are then written, everything about the case is
    asked, its row is appended to ``cases-<process>.jsonl`` in the job's folder, and the weights are put back. Cases
    that the folder has a row of are skipped, so an interrupted evaluation goes on at the next batch; the metrics are
    computed from all rows at the end.

    Args:
        root: the data folder.
        method: an editor for ``decathlon.build.build``; options that are null take the preset of the model.
        model, seed, dtype, training: the model, as in ``ModelSpec``.
        layer: the edited layer (or layers); null: the preset of method and model.
        corpus, samples: the texts for the key statistics, see ``module_editor.make_editor``.
        multihop_mode, prompting, max_new_tokens, fluency_tokens: see ``evaluation.Protocol``.
        bos: ``auto`` puts the document separator before every text, ``off`` leaves texts as the tokenizer has them.
        figures: also draw the share of reverted questions by residual knowledge, ``rs_buckets.png``.
    """

    unshardable = "an edit is written into whole weight matrices"

    def __init__(
        self,
        root: str,
        method: Mapping[str, Any],
        model: str,
        seed: int = 0,
        dtype: str = "float32",
        training: Mapping[str, Any] | None = None,
        layer: int | list[int] | None = None,
        corpus: str = "self",
        samples: int = 100_000,
        multihop_mode: str = "generate",
        prompting: str = "few_shot",
        max_new_tokens: int = 20,
        fluency_tokens: int = 0,
        bos: str | bool = "auto",
        figures: bool = False,
    ) -> None:
        super().__init__()
        self.bos = checked_bos(bos)
        if corpus == "world" and model != "world":
            raise ConfigError(f"corpus=world belongs to model=world, not to model={model}")
        if samples < 1:
            raise ConfigError(f"samples={samples} must be at least 1")
        check_method(method)
        self.root = Path(root)
        self.method = dict(method)
        self.spec = ModelSpec(model, seed, training or {}, dtype)
        self.layer, self.corpus, self.samples = layer, corpus, samples
        self.protocol_options: dict[str, Any] = {
            "mode": multihop_mode,
            "prompting": prompting,
            "max_new_tokens": max_new_tokens,
            "fluency_tokens": fluency_tokens,
            "bos": self.bos,
        }
        protocol = Protocol(**self.protocol_options)
        if answers_itself(method) and self.spec.is_world:
            raise ConfigError(
                f"method={method['name']} asks by prompts, which model=world does not follow; "
                "choose a dataset with a pretrained model, such as mquake_cf_3k"
            )
        if answers_itself(method) and "generate" not in protocol.modes:
            raise ConfigError(f"method={method['name']} generates its answers: multihop_mode must contain generate")
        self.figures = figures
        self.language_model: Any = None
        self.tokenizer: Any = None
        self.editor: Any = None
        self.done: set[str] = set()

    def setup(self, stage: str) -> None:
        """Load the model, so that Lightning moves it to the device."""
        if self.language_model is None:
            self.language_model, self.tokenizer = self.spec.load(self.root)
            text = demonstrations(self.root, self.protocol_options["prompting"])
            self.protocol = Protocol(**self.protocol_options, demonstrations=text)

    def on_test_start(self) -> None:
        """Build the editor, with the model where it stays, and find out what an earlier attempt has done."""
        mend(self._rows_path)
        self.done = {row["id"] for row in read_rows(self.folder)}
        if self.done:
            log.info("going on after %d evaluated cases", len(self.done))
        try:
            with torch.inference_mode(False):
                self.editor = make_editor(
                    self.method, self.language_model, self.tokenizer, self.spec, root=self.root, layer=self.layer,
                    corpus=self.corpus, samples=self.samples, bos=self.protocol.bos,
                )  # fmt: skip
        except ValueError as error:  # what only the model can tell: a layer it does not have, its family
            raise ConfigError(f"method={self.method['name']} on model={self.spec.name}: {error}") from error
        if answers_itself(self.method):
            self._open_memory(self.trainer.datamodule.cases)  # type: ignore[attr-defined]

    def _open_memory(self, cases: Sequence[Case]) -> None:
        """Have questions put to the editor, and tell it the edits of the whole dataset, not only of this process."""
        if not any(case.questions or case.edit_questions for case in cases):
            raise ConfigError(f"method={self.method['name']} answers questions, and this dataset has none")
        self.editor.remember([edit for case in cases for edit in case.edits])
        self.protocol = replace(self.protocol, answerer=self.editor.answers)

    @property
    def folder(self) -> Path:
        """The folder of the job."""
        return Path(self.trainer.default_root_dir)

    @property
    def _rows_path(self) -> Path:
        return rows_path(self.folder, self.global_rank)

    def test_step(self, batch: Sequence[Case], batch_idx: int) -> None:
        """Prepare the updates of a batch together; write, evaluate and undo each."""
        if all(case.id in self.done for case in batch):
            return
        # Lightning tests in inference mode; recall vectors are optimised by gradient.
        with torch.inference_mode(False), torch.enable_grad():
            # The whole batch, also where some of its cases are done: how rows are padded shows in the last bits.
            updates = self.editor.prepare([list(case.edits) for case in batch])
        for case, update in zip(batch, updates):
            if case.id in self.done:
                continue
            start = time.perf_counter()
            with torch.inference_mode(False), self.editor.applied(update):
                applied = time.perf_counter() - start
                row = evaluate(self.language_model, self.tokenizer, case, self.protocol)
            if self.keeps:
                kept = Update(update.deltas, [{"case": case.id}], update.seconds)
                kept.save(self.folder / UPDATES / f"{digest(case.id)}.pt")
            row |= {"seconds": update.seconds + applied, "bytes": update.nbytes, "notes": update.notes}
            append(self._rows_path, [row])
            self.done.add(case.id)

    @property
    def keeps(self) -> bool:
        """Whether the updates are kept: of a user's own edits, and of the small world, whose weights are few."""
        dataset = getattr(self.trainer.datamodule, "dataset", {})  # type: ignore[attr-defined]
        return dataset.get("source") in ("own", "world") and not answers_itself(self.method)

    def export(self, folder: Path) -> None:
        """Keep the updates, and the world's model; see ``decathlon.tasks.kele.trained``."""
        if (self.folder / UPDATES).is_dir():
            shutil.copytree(self.folder / UPDATES, folder / UPDATES)
        if self.spec.is_world:
            self.language_model.save_pretrained(folder / MODEL)
            self.tokenizer.save_pretrained(folder / MODEL)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of all rows, those of other processes and earlier attempts among them."""
        self.trainer.strategy.barrier()
        rows = read_rows(self.folder)
        metrics = aggregate(rows)
        for what in ("rev", "mh", "mhp"):
            metrics |= {f"{what}_q{i + 1}": value for i, value in enumerate(quartiles(rows, "rs_prob", what))}
        for name, value in metrics.items():
            self.log(f"test/{name}", value, rank_zero_only=False, sync_dist=False)
        if self.figures and self.trainer.is_global_zero:
            from decathlon.tasks.kele.evaluation.figure import draw_buckets

            draw_buckets(rows, self.folder / "rs_buckets.png")
