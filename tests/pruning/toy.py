"""A task without molecules: noisy lines, a small network, and the general pruning callback."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from decathlon.pruning import EpochSampler, Evidence


class Lines(pl.LightningDataModule):
    """n points x in R^4 with labels of a noisy half-space; batches are (x, y, index)."""

    def __init__(self, n: int = 60, batch_size: int = 8, workers: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(7)
        x = torch.randn(n, 4, generator=draw)
        y = (x[:, 0] + 0.5 * torch.randn(n, generator=draw) > 0).float()
        self.tensors = TensorDataset(x, y, torch.arange(n))
        self.batch_size, self.workers = batch_size, workers
        self.sampler = EpochSampler(n, seed=3)

    def train_dataloader(self) -> DataLoader:
        # Its own generator: else an iterator draws a seed for its workers from the global one, and a resumed run,
        # whose first iterator exists before the global state is restored, would go on differently.
        own = torch.Generator()
        return DataLoader(self.tensors, self.batch_size, sampler=self.sampler, num_workers=self.workers, generator=own)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.tensors, batch_size=32, generator=torch.Generator())


class Plain(pl.LightningModule):
    """Offers ``sample_losses`` only; remembers which samples each epoch trained on."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.sample_weights: Tensor | None = None
        self.trained: dict[int, list[int]] = {}
        self.weights: list[Tensor] = []

    def sample_losses(self, batch: Any) -> Tensor:
        logits = self.net(batch[0]).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch[1], reduction="none")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trained.setdefault(self.current_epoch, []).extend(batch[2].tolist())
        losses = self.sample_losses(batch)
        if self.sample_weights is None:
            return losses.mean()
        self.weights.append(self.sample_weights)
        return (self.sample_weights * losses).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.sample_losses(batch).mean(), batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def evidence(self, epochs: int = 1) -> list[Evidence]:
        n = 60
        draw = torch.Generator().manual_seed(epochs)
        z, logits = torch.randn(n, 3, generator=draw), torch.randn(n, 1, generator=draw)
        labels = (torch.arange(n) % 2).float()[:, None]
        zero = torch.zeros(n, dtype=torch.int64)
        return [Evidence(z, logits, labels, z, logits, labels, zero, zero.bool())]


class Returning(Plain):
    """Returns its losses from ``training_step`` instead."""

    sample_losses = None  # type: ignore[assignment]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trained.setdefault(self.current_epoch, []).extend(batch[2].tolist())
        losses = Plain.sample_losses(self, batch)
        return {"loss": losses.mean(), "losses": losses.detach(), "index": batch[2]}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", Plain.sample_losses(self, batch).mean(), batch_size=len(batch[0]))
