"""Multi-task attribute classification: shared trunk, one linear head for each task, any method on the trunk."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from decathlon import trained
from decathlon.tasks.pinn.errors import NotFiniteError
from decathlon.tasks.pinn.mixin import ConflictFreeMixin
from decathlon.tasks.pinn.multitask.labels import celeba_attributes, digit_attributes
from decathlon.tasks.pinn.multitask.metrics import f1_counts, f1_from_counts
from decathlon.tasks.pinn.multitask.nets import CelebATrunk, OverlayTrunk
from decathlon.tasks.pinn.schedule import Schedule, make_schedule
from decathlon.tasks.pinn.selection import Selection

log = logging.getLogger(__name__)


class MultiTask(ConflictFreeMixin, LightningModule):
    """Binary attributes by binary cross-entropy; the method acts on the trunk, the heads get the sum's gradient.

    Logged: ``test/f1`` (mean F1 on the test set at the evaluation with the best mean F1 on the validation set),
    ``test/worst_f1`` (smallest of the attributes' F1, there), ``test/f1_final``, ``test/f1_best`` (selected on the test
    set), ``test/f1/<attribute>`` (there too, for mean ranks), ``test/seconds_per_step``, ``val/f1``, and
    ``test/diverged`` (1: a loss or a gradient was not finite and the run stopped; its scores are not numbers).

    Args:
        trunk: the shared network, with its output width in ``features``.
        attributes: names of the tasks.
        method: method config.
        schedule: learning rate by step.
        lr: highest learning rate; the heads' under M-ConFIG.
        scales: (m,) factors of the losses.
        cosines_every: steps between measurements of the smallest cosines, ``train/cos_raw_min`` (of the combined
            gradient with the trunk gradients of the losses) and ``train/cos_step_min`` (of the real step); 0: never.
    """

    def __init__(
        self,
        trunk: nn.Module,
        attributes: list[str],
        method: dict[str, Any],
        schedule: Schedule,
        lr: float,
        scales: Tensor | None = None,
        cosines_every: int = 0,
    ) -> None:
        super().__init__()
        self.attributes = attributes
        self.trunk = trunk
        self.heads = nn.Linear(int(trunk.features), len(attributes))  # type: ignore[arg-type]
        self.scales: Tensor
        self.register_buffer("scales", torch.ones(len(attributes)) if scales is None else scales)
        self.setup_conflict(
            method,
            attributes,
            lr,
            schedule,
            parameters=self.trunk.parameters(),
            heads=self.heads.parameters(),
            log_every=cosines_every,
        )
        self.selection = Selection(better="higher", select="higher")
        self._counts: list[Tensor] = []
        self.diverged = False

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scaled mean binary cross-entropy of each attribute over the batch."""
        logits = self.heads(self.trunk(images))
        each = binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=0) * self.scales
        return dict(zip(self.attributes, each))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if self.diverged:
            return
        images, labels = self._train_batch(batch)
        try:
            found = self.conflict_step(self.losses(images, labels), lambda: self.losses(images, labels))
        except NotFiniteError as error:  # a result, and not a failed run
            self.diverged = self.trainer.should_stop = True
            log.warning("step %d: %s; this run has diverged and stops", self.conflict_steps, error)
            return
        values = [value for name, value in found.items() if "/" not in name]
        self.log("train/loss", torch.stack(values).mean(), prog_bar=True)
        for kind in ("cos_raw", "cos_step"):
            cosines = [value for name, value in found.items() if name.startswith(f"{kind}/")]
            if cosines:
                self.log(f"train/{kind}_min", torch.stack(cosines).min())

    def _train_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The loader's batch, or, where it only counts steps, this process's share of the data module's batch."""
        if not isinstance(batch, int | float) and not (isinstance(batch, Tensor) and batch.ndim == 0):
            return batch
        images, labels = self.trainer.datamodule.train_batch(self.conflict_steps)  # type: ignore[attr-defined]
        rank, world = self.global_rank, self.trainer.world_size
        return images[rank::world].to(self.device), labels[rank::world].to(self.device)

    def on_validation_epoch_start(self) -> None:
        empty = torch.zeros(2, len(self.attributes), dtype=torch.long, device=self.device)
        self._counts = [empty.clone(), empty.clone()]

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        self._counts[dataloader_idx] += f1_counts(self.heads(self.trunk(images)) > 0, labels)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        val, test = (self._f1(counts) for counts in self._counts)
        self._record(test, float(val.mean()))
        self.log("val/f1", float(val.mean()), prog_bar=True)

    def on_test_epoch_end(self) -> None:
        test = self._f1(self._counts[0])
        if not self.selection.reading("selected"):  # never evaluated in training
            self._record(test, 0.0)
        chosen = self.selection.reading("selected")
        found = {
            "f1": chosen["value"],
            "worst_f1": chosen["worst"],
            "f1_final": float(test.mean()),
            "worst_f1_final": float(test.min()),
            "f1_best": self.selection.reading("best")["value"],
            **{name: value for name, value in chosen.items() if name.startswith("f1/")},
        }
        if self.diverged:
            found = {name: math.nan for name in found}  # not a result of the whole protocol
        found |= {"seconds_per_step": self.seconds_per_step, "diverged": float(self.diverged)}
        self.log_dict({f"test/{name}": value for name, value in found.items()})

    def _record(self, test: Tensor, validation: float) -> None:
        each = {f"f1/{name}": float(value) for name, value in zip(self.attributes, test)}
        self.selection.add(self.conflict_steps, float(test.mean()), validation, worst=float(test.min()), **each)

    def _f1(self, counts: Tensor) -> Tensor:
        """(m,) F1 from the counts of all processes."""
        if self.trainer.world_size > 1:
            counts = self.trainer.strategy.reduce(counts.double(), reduce_op="sum")
        return f1_from_counts(counts)

    def export(self, folder: Path) -> None:
        """Keep trunk and heads; see ``decathlon.tasks.pinn.trained``."""
        trained.save(folder, {"trunk": dict(self.trunk.state_dict()), "heads": dict(self.heads.state_dict())})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["selection"] = self.selection.state_dict()
        checkpoint["diverged"] = self.diverged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.selection.load_state_dict(checkpoint["selection"])
        self.diverged = checkpoint.get("diverged", False)


class DigitsMultiTask(MultiTask):
    """``MultiTask`` on digits_overlay.

    Args:
        method: method config.
        dataset: ``tasks``, ``widths`` of the trunk, ``scale_range`` s and ``scale_seed``: loss i is multiplied by
            10^u_i with u_i uniform in [-s, s], a fixed draw.
        lr, lr_end, steps: of the schedule.
        seed: not used here; the runner has set the global one.
        figures: not used, there are none.
    """

    def __init__(
        self,
        method: dict[str, Any],
        dataset: dict[str, Any],
        lr: float,
        lr_end: float,
        steps: int,
        seed: int = 0,
        figures: bool = True,
    ) -> None:
        names = digit_attributes(int(dataset["tasks"]))
        generator = torch.Generator().manual_seed(int(dataset["scale_seed"]))
        exponents = torch.rand(len(names), generator=generator) * 2 - 1
        super().__init__(
            OverlayTrunk(96, tuple(dataset["widths"])),
            names,
            method,
            make_schedule(dataset, lr, lr_end, steps),
            lr,
            10 ** (float(dataset["scale_range"]) * exponents),
            int(dataset.get("cosines_every", 0)),
        )


class CelebAMultiTask(MultiTask):
    """``MultiTask`` on CelebA.

    Args:
        method: method config.
        dataset: ``width`` of the network (64), ``tasks``: how many of the forty attributes.
        lr, lr_end, steps: of the schedule.
        seed: not used here; the runner has set the global one.
        figures: not used, there are none.
    """

    def __init__(
        self,
        method: dict[str, Any],
        dataset: dict[str, Any],
        lr: float,
        lr_end: float,
        steps: int,
        seed: int = 0,
        figures: bool = True,
    ) -> None:
        super().__init__(
            CelebATrunk(int(dataset["width"])),
            celeba_attributes(int(dataset["tasks"])),
            method,
            make_schedule(dataset, lr, lr_end, steps),
            lr,
            cosines_every=int(dataset.get("cosines_every", 0)),
        )
