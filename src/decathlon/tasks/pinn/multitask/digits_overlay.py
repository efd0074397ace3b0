"""digits_overlay: two overlapping handwritten digits, many binary attributes. Ships with scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from decathlon.tasks.pinn.multitask.batches import Batches, Steps
from decathlon.tasks.pinn.multitask.labels import DIGIT_RULES, digit_attributes

SPLITS = {"train": (1100, 6000), "val": (300, 1500), "test": (397, 3000)}
"""Number of digits, and of ordered pairs that are drawn from them."""

_DATA_SEED = 0


def overlay(images: Tensor, pairs: Tensor) -> Tensor:
    """Left digit at columns 0-7 and right digit at columns 4-11 of an 8 x 12 canvas, joined by the maximum.

    Args:
        images: (n, 8, 8).
        pairs: (B, 2) indices of the left and the right one.

    Returns:
        (B, 8, 12).
    """
    canvas = images.new_zeros(len(pairs), 8, 12)
    canvas[:, :, :8] = images[pairs[:, 0]]
    canvas[:, :, 4:] = torch.maximum(canvas[:, :, 4:], images[pairs[:, 1]])
    return canvas


def make(count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The three splits: images (B, 8, 12) float32 in [0, 1], labels (B, count) float32.

    The 1797 digits are split before pairs are drawn, so no digit is in two splits. The draw is fixed: it does not
    depend on the seed of the run.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32) / 16
    digits = torch.tensor(raw.target)
    generator = torch.Generator().manual_seed(_DATA_SEED)
    order = torch.randperm(len(digits), generator=generator)
    names, start, splits = digit_attributes(count), 0, {}
    for split, (size, draws) in SPLITS.items():
        chosen = order[start : start + size]
        start += size
        pairs = chosen[torch.randint(size, (draws, 2), generator=generator)]
        left, right = digits[pairs[:, 0]], digits[pairs[:, 1]]
        labels = torch.stack([DIGIT_RULES[name](left, right) for name in names], dim=1)
        splits[split] = (overlay(images, pairs), labels.float())
    return splits


class DigitsOverlay(LightningDataModule):
    """Batches of digits_overlay; batch k of a run is a function of (seed, k).

    Args:
        root: not used, the data ships with scikit-learn.
        dataset: ``tasks`` (number of attributes), ``batch_size``, ``eval_every`` (steps between evaluations).
        seed: of the order.
    """

    def __init__(self, root: str | Path, dataset: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.count = int(dataset["tasks"])
        digit_attributes(self.count)  # checks it
        self.batch_size, self.eval_every = int(dataset["batch_size"]), int(dataset["eval_every"])
        if self.batch_size < 2 or self.eval_every < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 2, eval_every={self.eval_every} 1")
        self.seed = seed
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    def setup(self, stage: str | None = None) -> None:
        self.splits = make(self.count)

    def train_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The whole batch of a step: consecutive parts of a permutation that is new in each pass over the data."""
        images, labels = self.splits["train"]
        per_pass = len(images) // self.batch_size
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step // per_pass) % 2**32)
        order = torch.randperm(len(images), generator=generator)
        start = step % per_pass * self.batch_size
        chosen = order[start : start + self.batch_size]
        return images[chosen], labels[chosen]

    def train_dataloader(self) -> DataLoader:
        """``eval_every`` steps make an epoch; the batches themselves come from ``train_batch``."""
        steps: Any = range(self.eval_every)
        return DataLoader(steps, sampler=Steps(self.eval_every), batch_size=None)

    def val_dataloader(self) -> list[DataLoader]:
        """Validation and test set: the test F1 is read where the validation F1 is best."""
        return [self._loader("val"), self._loader("test")]

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    def _loader(self, split: str) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        data = TensorDataset(*self.splits[split])
        sampler = Batches(np.arange(len(self.splits[split][0])), 1500, self.seed, False, rank, world)
        return DataLoader(data, sampler=sampler, batch_size=None)
