"""Fine-tuning of a molecular encoder, with per-sample losses of the online and the reference model."""

import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from decathlon import trained
from decathlon.errors import ConfigError
from decathlon.molecules.encoders import model_options
from decathlon.pruning.evidence import Evidence
from decathlon.pruning.method import check_method, make_pruner
from decathlon.pruning.reference import Reference
from decathlon.randomness import seeded
from decathlon.tasks.molpeg.losses import label_losses, sample_losses
from decathlon.tasks.molpeg.metrics import HIGHER, REGRESSION, Collected
from decathlon.tasks.molpeg.molpeg import MolPeg
from decathlon.tasks.molpeg.predictor import Predictor
from decathlon.tasks.molpeg.scoring import Scoring

LAST = 3  # test/<metric>_last3 is the mean of that many last epochs


class FineTune(pl.LightningModule):
    """Encoder and linear head, trained by Adam on what a pruner selects.

    ``training_step`` returns what ``decathlon.pruning.callback.Pruning`` wants: the samples' losses, and where the
    method asks for them those of the reference, taken before the step. It logs all metrics of validation and test;
    ``score`` is the main one with the sign by which more is better; ``test/<metric>_last3`` is the mean over the last
    three epochs, which unlike the best epoch's value is not chosen on few validation positives. Also
    ``train/kept_positive`` (share of positive among the known labels trained on), ``train/steps``,
    ``train/epoch_seconds`` and ``train/reference_seconds`` (mean wall time of an epoch's training, total of the
    reference's part; both of the host).

    Args:
        method: ``class`` and options of the pruner.
        model: name of the encoder, or a mapping of ``name`` and options.
        prune: share of samples that an epoch leaves out; checked here, used by the callback.
        metric: ``roc_auc``, ``average_precision``, ``mae`` or ``rmse``.
        lr: step size of Adam. weight_decay: of Adam. schedule: ``none``, or ``cosine`` from lr to 0 over all epochs.
        dropout: of the encoder; the model's own if None.
        seed: of the fresh weights and of the dropout masks.
        test_curve: measure the test set after every epoch (``test/<metric>_epoch``), for curves; not to choose by.
    """

    brings_losses = True

    def __init__(
        self,
        method: Mapping[str, Any],
        model: str | Mapping[str, Any],
        prune: float = 0.6,
        metric: str = "roc_auc",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: str = "none",
        dropout: float | None = None,
        seed: int = 0,
        test_curve: bool = False,
    ) -> None:
        super().__init__()
        self.test_curve = test_curve
        kind = check_method(method, prune)
        if metric not in HIGHER:
            raise ValueError(f"metric={metric} is none; choose {', '.join(HIGHER)}")
        if schedule not in ("none", "cosine"):
            raise ValueError(f"schedule={schedule} is none; choose none or cosine")
        if not isinstance(lr, int | float) or lr <= 0:
            raise ValueError(f"lr={lr!r} is no step size; give a number above 0")
        name, options = model_options(model)
        if dropout is not None:
            options["dropout"] = dropout
        self.model = {"name": name, **options}
        self.metric, self.lr, self.weight_decay, self.schedule, self.seed = metric, lr, weight_decay, schedule, seed
        probe = make_pruner(method, 2, prune) if issubclass(kind, MolPeg) else None
        self.settings = probe if isinstance(probe, MolPeg) else None
        self.online: Predictor | None = None
        self.reference: Reference | None = None
        self.sample_weights: Tensor | None = None
        self.regression = False
        self.target: tuple[Tensor, Tensor] | None = None  # mean and std of a regression's targets
        self.test_by_epoch: dict[int, dict[str, float]] = {}
        self.reference_seconds = self.epoch_seconds = 0.0
        self.epochs_timed = 0
        self._started = 0.0
        self._sums = torch.zeros(3, dtype=torch.float64)  # loss, known labels, positive labels
        self._outputs = Collected(metric)

    # Building

    def setup(self, stage: str) -> None:
        """Build encoder, head and reference for the data that the trainer holds."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.regression = data.task_type == "regression"
        if self.regression != (self.metric in REGRESSION):
            raise ValueError(f"metric={self.metric} does not fit a {data.task_type}")
        if self.regression and str(self.trainer.precision) in ("bf16-true", "16-true"):
            raise ConfigError(f"precision={self.trainer.precision} rounds the labels of a regression; use bf16-mixed")
        self.target = (torch.as_tensor(data.target_mean), torch.as_tensor(data.target_std)) if self.regression else None
        if self.online is None:
            self._build(data)
        if stage == "fit":
            # Dropout masks are a function of the seed, whatever drew numbers before: making caches, for instance.
            torch.manual_seed(self.seed + 2**21 + self.global_rank)

    def _build(self, data: Any) -> None:
        spec, tasks = data.encoder_spec(), data.num_tasks
        self.online = Predictor(self.model, spec, tasks, data.pretrained_state(), self.seed)
        if self.settings is not None:
            start = Predictor(self.model, spec, tasks, seed=self.seed + 2**20)
            if self.settings.reference_init == "pretrained":
                start.load_state_dict(self.online.state_dict())
            if self.settings.ema_head:
                self.reference = self.settings.reference(self.online, start)
            else:
                self.reference = self.settings.reference(self.online.encoder, start.encoder)

    def configure_optimizers(self) -> Any:
        """Adam on encoder and head."""
        assert self.online is not None
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(self.online.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        if self.schedule == "none":
            return optimizer
        epochs = self.trainer.max_epochs or 1
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)]

    def evidence(self, **scoring: Any) -> list[Evidence]:
        """Fine-tune scratch copies on the whole training set and return what they say of it; cached on disk."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return Scoring(data, self.model, self.lr, self.weight_decay, self.seed, self.device).evidence(**scoring)

    # Training

    def forward(self, batch: Any) -> Tensor:
        """Logits, or standardised predictions: (B, T)."""
        assert self.online is not None
        return self.online(batch)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The batch's loss per known label, and the samples' losses."""
        assert self.online is not None
        labels = self._labels(batch)
        # In eval mode before the training forward, which moves the running statistics of BatchNorm.
        scores = self._scores(batch, labels) if self.settings and self.settings.score_mode == "eval" else None
        logits = self.online(batch)
        total, known = label_losses(logits, labels, self.regression)
        labelled = known.sum().clamp(min=1)
        weighted = total if self.sample_weights is None else total * self.sample_weights
        loss = weighted.sum() / labelled
        losses = self._rank_losses(total.detach(), known, logits.shape[1])
        if self.settings and scores is None:
            # Masks of its own: those of the online model are the same as without a reference.
            key = "reference", self.seed, self.current_epoch, batch_idx, self.global_rank
            with seeded(*key, device=self.device):
                scores = losses, self._reference_losses(batch, labels)
        with torch.no_grad():
            positive = torch.zeros(()) if self.regression else (labels == 1).sum()
            self._sums += torch.stack([loss.detach() * labelled, labelled.float(), positive.to(loss)])
        if scores is None:
            return {"loss": loss, "losses": losses, "index": batch.index}
        return {"loss": loss, "losses": scores[0], "reference_losses": scores[1], "index": batch.index}

    def _scores(self, batch: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (B,) of the online and of the reference model, both without dropout if scores are taken so."""
        assert self.online is not None and self.settings is not None
        training = self.online.training
        self.online.train(training and self.settings.score_mode == "train")
        with torch.no_grad():
            online = self._losses_of(self.online(batch), labels)
            reference = self._reference_losses(batch, labels)
        self.online.train(training)
        return online, reference

    def _reference_losses(self, batch: Any, labels: Tensor) -> Tensor:
        """Losses (B,) of the reference model, in the mode of the online one."""
        assert self.online is not None and self.reference is not None and self.settings is not None
        start = time.perf_counter()
        self.reference.train(self.online.training)
        with torch.no_grad():
            output = self.reference(batch)
            logits = output if self.settings.ema_head else self.online.head(output)
            losses = self._losses_of(logits, labels)
        self.reference_seconds += time.perf_counter() - start
        return losses

    def score_losses(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """As in training, but outside of it: losses (B,) of the online and of the reference model.

        In training mode it draws dropout masks and moves the statistics of BatchNorm: see
        ``decathlon.pruning.untouched``.
        """
        labels = self._labels(batch)
        if self.settings is not None:
            return self._scores(batch, labels)
        with torch.no_grad():
            return self._losses_of(self(batch), labels), None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The reference follows each step of the optimizer, before a checkpoint can be taken."""
        super().optimizer_step(*args, **kwargs)
        if self.reference is not None:
            start = time.perf_counter()
            self.reference.update()
            self.reference_seconds += time.perf_counter() - start

    def on_train_epoch_start(self) -> None:
        """Start the clock and the sums of the epoch."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self._started = time.perf_counter()

    def on_validation_start(self) -> None:
        """Stop the clock: an epoch's time is that of its training."""
        if self.trainer.training or self.trainer.state.fn == "fit":
            self.epoch_seconds += time.perf_counter() - self._started
            self.epochs_timed += 1

    def on_train_epoch_end(self) -> None:
        """Log what the epoch was trained on, and how long it took."""
        loss, known, positive = self._sums.tolist()
        values = {
            "train/loss": loss / max(known, 1),
            "train/steps": float(self.trainer.global_step),
            "train/epoch_seconds": self.epoch_seconds / max(self.epochs_timed, 1),
        }
        if not self.regression:
            values["train/kept_positive"] = positive / max(known, 1)
        if self.reference is not None:
            values["train/reference_seconds"] = self.reference_seconds
        self.log_dict(values, sync_dist=self.trainer.world_size > 1)

    # Evaluation

    def _labels(self, batch: Any) -> Tensor:
        if self.target is None:
            return batch.y
        mean, std = self.target
        return (batch.y - mean.to(batch.y)) / std.to(batch.y)

    def _losses_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._rank_losses(*label_losses(logits, labels, self.regression), logits.shape[1])

    def _rank_losses(self, total: Tensor, known: Tensor, tasks: int) -> Tensor:
        return sample_losses(total, known, tasks, "all" if self.settings is None else self.settings.score_norm)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Keep the outputs until the epoch's end."""
        self._outputs.add(self(batch), batch.y)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, and in the last epochs the mean of the test metrics so far."""
        values = self._outputs.measure(self.target)
        logs = {f"val/{name}": value for name, value in values.items()}
        last_epochs = self.current_epoch >= (self.trainer.max_epochs or 0) - LAST
        if self.trainer.state.fn == "fit" and (last_epochs or self.test_curve):
            now = self.test_by_epoch[self.current_epoch] = self._test_now()
            last = [self.test_by_epoch[epoch] for epoch in sorted(self.test_by_epoch)[-LAST:]]
            for name in values:
                logs[f"test/{name}_last{LAST}"] = sum(one[name] for one in last) / len(last)
                if self.test_curve:
                    logs[f"test/{name}_epoch"] = now[name]
        self.log_dict(logs)

    def _test_now(self) -> dict[str, float]:
        """The test metrics of the current weights."""
        limit = self.trainer.limit_test_batches
        batches = self.trainer.datamodule.test_dataloader()  # type: ignore[attr-defined]
        for batch in islice(batches, limit) if isinstance(limit, int) else batches:
            batch = self.trainer.precision_plugin.convert_input(batch).to(self.device)
            self._outputs.add(self(batch), batch.y)
        return self._outputs.measure(self.target)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Keep the outputs until the end."""
        self._outputs.add(self(batch), batch.y)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        tasks = getattr(self.trainer.datamodule, "tasks", ())  # type: ignore[attr-defined]
        self.log_dict({f"test/{name}": value for name, value in self._outputs.measure(self.target, tasks).items()})

    def export(self, folder: Path) -> None:
        """Keep encoder and head with what predictions need; see ``decathlon.tasks.molpeg.trained``."""
        assert self.online is not None
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        mean, std = self.target or (None, None)
        state = {
            "model": self.model, "spec": data.encoder_spec(), "tasks": list(data.tasks), "unit": data.unit,
            "mean": mean, "std": std, "weights": dict(self.online.state_dict()),
        }  # fmt: skip
        trained.save(folder, state)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the test metrics of the last epochs and the clocks."""
        checkpoint["molpeg"] = {
            "test_by_epoch": self.test_by_epoch,
            "sums": self._sums.cpu(),
            "seconds": [self.reference_seconds, self.epoch_seconds, float(self.epochs_timed)],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from ``on_save_checkpoint``."""
        state = checkpoint["molpeg"]
        self.test_by_epoch = {**state["test_by_epoch"], **self.test_by_epoch}
        self.reference_seconds, self.epoch_seconds, timed = state["seconds"]
        self.epochs_timed = int(timed)
        self._sums = state["sums"][:3].to(self.device)  # older checkpoints repeat a number
