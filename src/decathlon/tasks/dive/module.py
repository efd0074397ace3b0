"""The LightningModule: trains all members of a method, keeps the best states, and measures them."""

import copy
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from decathlon import trained
from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch
from decathlon.randomness import seeded
from decathlon.tasks.dive.backbone import Backbone, Spec
from decathlon.tasks.dive.data.parts import PARTS, Parts
from decathlon.tasks.dive.losses import REGRESSION
from decathlon.tasks.dive.methods.base import Method, Step
from decathlon.tasks.dive.metrics import HIGHER, MaskSums, measure
from decathlon.tasks.dive.reports import History, log_outcome, test_metrics, write_outcome
from decathlon.tasks.dive.selection import CRITERIA, Selection

log = logging.getLogger(__name__)
SELECTED_BY = {"ood": "ood_val", "id": "id_val"}


class GraphModule(pl.LightningModule):
    """One method on one dataset.

    After every ``eval_every`` epochs each member is evaluated alone on both validation sets, and the best state of each
    is kept for each of them. The test measures those states; it never decides anything.

    Args:
        method: a class of ``methods`` and its options. network: width, layers, dropout, virtual_node of the backbone.
        lr, weight_decay: of Adam. lr_drop: the epoch from which the learning rate is a tenth; None: never.
        regression: ``l1`` or ``mse``, of regression tasks. seed: of the weights.
        curves: evaluate all five parts each time, for figures; selection still sees two of them only.
        figures: draw masks and curves. weights: also write ``model.pt``, the chosen member alone.

    Attributes:
        watched: the parts that are evaluated during training.
    """

    method: Method
    parts: Parts

    def __init__(
        self,
        method: Mapping[str, Any],
        network: Mapping[str, Any],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        lr_drop: int | None = None,
        regression: str = "l1",
        seed: int = 0,
        curves: bool = False,
        figures: bool = True,
    ) -> None:
        super().__init__()
        if lr <= 0 or weight_decay < 0:
            raise ConfigError(f"lr={lr} must be positive, weight_decay={weight_decay} not negative")
        if regression not in REGRESSION:
            raise ConfigError(f"regression={regression} is unknown; choose {', '.join(REGRESSION)}")
        self.spec, self.network, self.regression = dict(method), dict(network), regression
        self.lr, self.weight_decay, self.lr_drop = lr, weight_decay, lr_drop
        self.seed, self.curves, self.figures = seed, curves, figures
        self.watched = PARTS if curves else ("id_val", "ood_val")
        self._build(Spec(1, 0, 2, "multiclass", 1))  # a wrong option is told before anything is written
        self.history = History()
        self._sums: dict[str, Tensor] = {}
        self._outputs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._masks: dict[str, MaskSums] = {}

    def _build(self, spec: Spec) -> Method:
        with seeded("dive weights", self.seed):
            backbone = Backbone(spec, **self.network)
            return build(self.spec, backbone, called="method", regression=self.regression)

    def setup(self, stage: str) -> None:
        """Build the networks for the data."""
        if hasattr(self, "method"):
            return
        self.parts = self.trainer.datamodule.parts  # type: ignore[attr-defined]
        self.method = self._build(self.parts.spec)
        if self.method.needs_environments and self.parts.spec.environments < 1:
            raise ConfigError(
                f"method={self.spec['name']} needs environments, and this dataset has none; "
                "name the column with dataset.column=, or choose a method that needs none"
            )
        self.selection = Selection(HIGHER[self.parts.metric])

    def configure_optimizers(self) -> Any:
        """Adam over all members."""
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(self.method.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        if self.lr_drop is None:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [self.lr_drop], 0.1)]

    # Training

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> Tensor:
        """One step of all members."""
        steps = max(1, int(self.trainer.num_training_batches))
        total = steps * max(1, self.trainer.max_epochs or 1)
        step = Step(self.current_epoch, min(1.0, (self.current_epoch * steps + batch_idx) / total))
        losses = self.method.loss(batch, step)
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().double()
        self._sums["steps"] = self._sums.get("steps", torch.zeros(())) + 1
        return losses["loss"]

    def on_train_epoch_end(self) -> None:
        """Log the means over the epoch's steps."""
        steps = float(self._sums.pop("steps", 1.0))
        means = {f"train/{name}": float(total) / steps for name, total in self._sums.items()}
        self._sums = {}
        if not math.isfinite(means.get("train/loss", 0.0)):
            raise ConfigError(
                f"the training diverged in epoch {self.current_epoch}: the loss is {means['train/loss']}; "
                f"lower lr={self.lr}"
            )
        self.log_dict(means, sync_dist=self.trainer.world_size > 1)

    # Validation and test

    def on_validation_epoch_start(self) -> None:
        """Forget what an earlier evaluation saw."""
        self._outputs, self._masks = {}, {}

    def validation_step(self, batch: FeatureBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predictions and masks of all members."""
        self._collect(self.watched[dataloader_idx], self.method, batch)

    def _collect(self, place: str, method: Method, batch: FeatureBatch) -> None:
        predictions, masks = method.predict_with_masks(batch)
        self._outputs.setdefault(place, []).append((predictions.float(), batch.y))
        if masks is not None:
            self._masks.setdefault(place, MaskSums()).add(masks.float(), batch)

    def _measured(self, place: str) -> Tensor:
        outputs, labels = zip(*self._outputs[place])
        return measure(self.parts.metric, torch.cat(outputs, 1), torch.cat(labels)).cpu()

    def on_validation_epoch_end(self) -> None:
        """Offer the members' states to the selection, and note the curves."""
        values = {part: self._measured(part) for part in self.watched}
        masks = {part: sums.summary() for part, sums in self._masks.items()}
        self._outputs, self._masks = {}, {}
        if self.trainer.sanity_checking:
            return
        criteria = {name: values[part].tolist() for name, part in SELECTED_BY.items()}
        self.selection.offer(self.current_epoch, criteria, self.method)
        self.history.add(self.current_epoch, self.parts.metric, values, masks)
        best = torch.max if HIGHER[self.parts.metric] else torch.min
        for name, part in SELECTED_BY.items():
            self.log(f"val/{name}_{self.parts.metric}", float(best(values[part])), rank_zero_only=True)

    def on_test_start(self) -> None:
        """Two copies of the networks: each member as it was best by OOD and by ID validation."""
        if not self.selection.kept:
            raise ConfigError("no epoch was evaluated, so no state was selected; lower eval_every")
        self._chosen = {name: copy.deepcopy(self.method).eval() for name in CRITERIA}
        for name, method in self._chosen.items():
            self.selection.restore(name, method)
        self._outputs, self._masks = {}, {}

    def test_step(self, batch: FeatureBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predictions of the best states of all members."""
        for name, method in self._chosen.items():
            self._collect(f"{name}/{PARTS[dataloader_idx]}", method, batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics, and write what a person may want to see."""
        values = {place: self._measured(place) for place in self._outputs}
        masks = {place: sums.summary() for place, sums in self._masks.items()}
        metrics = test_metrics(self.parts.metric, self.selection, values, masks)
        for name, value in metrics.items():
            self.log(f"test/{name}", value, rank_zero_only=True)
        if self.trainer.is_global_zero:
            log_outcome(str(self.spec["name"]), self.parts.metric, self.selection, values, masks)
            folder = Path(self.trainer.default_root_dir)
            quality = self._masks["ood/ood_test"].quality_of_graphs() if "ood/ood_test" in self._masks else None
            write_outcome(folder, self.history, quality, self._standalone())
            if self.figures:
                from decathlon.tasks.dive.figures import draw_job

                drawn = draw_job(folder, self.parts, self._chosen["ood"], self.selection, self.history)
                log.info("pictures: %s", ", ".join(str(path) for path in drawn))

    def _standalone(self) -> dict[str, Any]:
        """What ``loading.load`` needs to make the deployed network again."""
        winner = self.selection.winner("ood")
        return {
            "method": self.spec, "network": self.network, "regression": self.regression, "member": winner,
            "spec": vars(self.parts.spec), "metric": self.parts.metric, "state": self._chosen["ood"].state_dict(),
        }  # fmt: skip

    def export(self, folder: Path) -> None:
        """Keep the deployed network; see ``decathlon.tasks.dive.trained``."""
        trained.save(folder, self._standalone())

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the best states, the curves and the sums of a half-done epoch."""
        checkpoint["dive"] = {
            "selection": self.selection.state(),
            "history": self.history.rows,
            "sums": {name: torch.as_tensor(value).cpu() for name, value in self._sums.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from ``on_save_checkpoint``."""
        state = checkpoint["dive"]
        self.selection.load(state["selection"])
        self.history.rows = list(state["history"])
        self._sums = {name: value.to(self.device) for name, value in state["sums"].items()}
