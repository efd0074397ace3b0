"""Checkpoints that survive a kill at any moment and load without executing code."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from decathlon import files


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there in one step; loads with ``weights_only=True``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with files.atomic(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)


class RandomState(Callback):
    """Keeps the global random states of torch, NumPy and Python in checkpoints, so that a resumed run draws on."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        name, keys, position, has_gauss, cached = np.random.get_state()
        version, internal, gauss = random.getstate()
        checkpoint["random_state"] = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [
                str(name),
                torch.from_numpy(np.asarray(keys).astype(np.int64)),
                position,
                has_gauss,
                cached,
            ],
            "python": [version, list(internal), gauss],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get("random_state")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in on_load_checkpoint: what Lightning does between loading and training may draw numbers.
        if self._loaded is None:
            return
        torch.set_rng_state(self._loaded["torch"].cpu())
        if self._loaded["cuda"] and len(self._loaded["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._loaded["cuda"]])
        name, keys, position, has_gauss, cached = self._loaded["numpy"]
        np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
        version, internal, gauss = self._loaded["python"]
        random.setstate((version, tuple(internal), gauss))
        self._loaded = None


def checkpoint_callbacks(
    folder: Path, monitor: str | None, mode: str, every_n_steps: int | None, epochs: bool
) -> list[ModelCheckpoint]:
    """Callbacks that keep ``best.ckpt`` (by ``monitor``) and ``last.ckpt`` (to resume from) in ``folder``.

    ``last.ckpt`` is written every ``every_n_steps`` optimiser steps, or, without it, at the end of each epoch.
    """
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    callbacks = []
    if monitor is not None:
        callbacks.append(ModelCheckpoint(filename="best", monitor=monitor, mode=mode, save_top_k=1, **common))
    if every_n_steps is not None:
        callbacks.append(ModelCheckpoint(save_top_k=0, save_last=True, every_n_train_steps=every_n_steps, **common))
    if epochs:
        callbacks.append(
            ModelCheckpoint(save_top_k=0, save_last=True, every_n_epochs=1, save_on_train_epoch_end=True, **common)
        )
    return callbacks
