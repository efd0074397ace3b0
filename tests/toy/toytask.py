"""A tiny task for the tests of the runner: logistic regression on generated points."""

import os
import signal
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset

from decathlon.errors import DataError


class ToyData(LightningDataModule):
    def __init__(self, dataset: dict[str, Any], seed: int) -> None:
        super().__init__()
        self.dataset, self.seed = dataset, seed

    def prepare_data(self) -> None:
        if self.dataset["broken"]:
            raise DataError("toy.csv is corrupt: line 3 has two fields, expected three")

    def _loader(self, shift: int, shuffle: bool) -> DataLoader:
        generator = torch.Generator().manual_seed(7 + shift)
        x = torch.randn(self.dataset["n"], 4, generator=generator)
        y = (x.sum(1, keepdim=True) + 0.3 * torch.randn(len(x), 1, generator=generator) > 0).float()
        return DataLoader(TensorDataset(x, y), batch_size=16, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader:
        return self._loader(0, True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(1, False)

    def test_dataloader(self) -> DataLoader:
        return self._loader(2, False)


class ToyModule(LightningModule):
    def __init__(self, method: dict[str, Any], lr: float, width: int) -> None:
        super().__init__()
        if not 0 < lr < 1:
            raise ValueError(f"lr must be in (0, 1), got {lr}")
        self.method, self.lr = method, lr
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Dropout(0.2), torch.nn.Linear(width, 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.method["name"] == "crash" and self.global_step >= self.method["at"]:
            raise RuntimeError("the toy crashed, as it was told to")
        if os.environ.get("TOY_KILL_AT_STEP") == str(self.global_step):
            os.kill(os.getpid(), signal.SIGKILL)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        if os.environ.get("TOY_KILL_IN_TEST"):
            os.kill(os.getpid(), signal.SIGKILL)
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, stage: str) -> None:
        logits = self.net(batch[0])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch[1])
        self.log(f"{stage}/loss", loss, on_epoch=True, sync_dist=True)
        self.log(
            f"{stage}/accuracy",
            ((logits > 0) == batch[1].bool()).float().mean(),
            on_epoch=True,
            sync_dist=True,
        )
        self.log(f"{stage}/world", float(self.trainer.world_size), on_epoch=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)
