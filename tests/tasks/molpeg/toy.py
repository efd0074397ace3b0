"""Random bits with labels, behind the interface of ``MoleculeData``; small enough to train in a test."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from decathlon.graphs.loader import BatchLoader
from decathlon.molecules.batches import FingerprintBatch
from decathlon.pruning import EpochSampler
from decathlon.pruning.callback import Pruning
from decathlon.runner.exact import RandomState
from decathlon.storage import digest
from decathlon.tasks.molpeg.module import FineTune

BITS = 32


class Bits(pl.LightningDataModule):
    """n training samples of 32 bits, with ``tasks`` labels of which a share is missing."""

    def __init__(
        self, root: Path, n: int = 120, tasks: int = 1, missing: float = 0.0, regression: bool = False
    ) -> None:
        super().__init__()
        self.root, self.dataset_name, self.num_tasks = root, "bits", tasks
        self.task_type = "regression" if regression else "classification"
        draw = torch.Generator().manual_seed(3)
        total = n + 120
        self.bits = (torch.rand(total, BITS, generator=draw) < 0.3).float()
        value = self.bits @ torch.randn(BITS, tasks, generator=draw) / 2 + 0.3 * torch.randn(
            total, tasks, generator=draw
        )
        value = value - value.mean(0)
        self.y = 10 + 5 * value if regression else (value > 0.5).float()
        self.y[torch.rand(total, tasks, generator=draw) < missing] = torch.nan
        self.parts = {"train": (0, n), "val": (n, n + 60), "test": (n + 60, total)}
        self.train_size = n
        self.target_mean = self.y[:n].nanmean(0)
        self.target_std = (self.y[:n] - self.target_mean).square().nanmean(0).sqrt()
        self.trainings = 0
        self.sampler = EpochSampler(n, 0)

    def encoder_spec(self) -> dict[str, Any]:
        return {"inputs": "fingerprint", "bits": BITS}

    def pretrained_state(self) -> dict[str, Tensor] | None:
        return None

    def identity(self) -> dict[str, Any]:
        return {"content": digest(self.bits, self.y), "n": self.train_size}

    def fingerprints(self) -> Tensor:
        return self.bits[: self.train_size].to(torch.uint8)

    def batch(self, part: str, rows: Tensor) -> FingerprintBatch:
        start, _ = self.parts[part]
        return FingerprintBatch(rows, self.y[start + rows], self.bits[start + rows])

    def train_dataloader(self) -> BatchLoader:
        return BatchLoader(
            lambda rows: self.batch("train", rows),
            lambda: self.sampler.batches(16),
            lambda: self.sampler.number_of_batches(16),
            sampler=self.sampler,
        )

    def _whole(self, part: str) -> DataLoader:
        start, end = self.parts[part]
        batches = [self.batch(part, rows) for rows in torch.arange(end - start).split(40)]
        return DataLoader(batches, batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return self._whole("val")

    def test_dataloader(self) -> DataLoader:
        return self._whole("test")


MOLPEG: dict[str, Any] = {"name": "molpeg", "class": "decathlon.tasks.molpeg.MolPeg"}
MODEL = {"name": "fp_mlp", "widths": [16]}


class Record(pl.Callback):
    """Remembers what each epoch trained on, and the losses of the steps."""

    def __init__(self) -> None:
        self.trained: dict[int, list[int]] = {}
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trained.setdefault(trainer.current_epoch, []).extend(batch.index.tolist())
        self.losses.append(outputs["loss"].item())


def make(
    root: Path,
    method: dict[str, Any] = MOLPEG,
    prune: float = 0.6,
    epochs: int = 6,
    callbacks: list[pl.Callback] | None = None,
    data: Bits | None = None,
    precision: Any = "32-true",
    **options: Any,
) -> tuple[pl.Trainer, FineTune, Bits, Pruning, Record]:
    """A trainer, a module, data, the pruning callback and a record of what happens."""
    data = data or Bits(root)
    options = {"dropout": 0.2, "lr": 0.01, **options}
    module = FineTune(method, MODEL, prune=prune, **options)
    pruning, record = Pruning(method, prune), Record()
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", precision=precision, logger=False, enable_checkpointing=bool(callbacks),
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[RandomState(), pruning, record, *(callbacks or [])], default_root_dir=root,
    )  # fmt: skip
    return trainer, module, data, pruning, record
