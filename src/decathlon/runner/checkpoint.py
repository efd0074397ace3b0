"""Checkpoints that survive a kill at any moment and load without executing code."""

import errno
import os
import random
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from decathlon import files


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there in one step; loads with ``weights_only=True``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with files.atomic(path, durable=False) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:
                if shutil.disk_usage(temporary.parent).free < 1 << 20:  # torch does not say what was wrong
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
                raise

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)


class EndAtOnce(Callback):
    """SIGTERM ends the process at once. Lightning would wait for a batch to end, in a test for ever.

    Nothing is lost by it: all state is in files that survive a kill at any moment.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_default()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_default()

    def _restore_default(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


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

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # As late as can be before Lightning makes the iterator of the next epoch, which draws the order of the data.
        self._restore()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loaded = None

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # Resumed inside an epoch: no iterator was made at this point in the run that wrote the checkpoint.
        self._restore()
        self._loaded = None

    def _restore(self) -> None:
        if self._loaded is None:
            return
        torch.set_rng_state(self._loaded["torch"].cpu())
        if self._loaded["cuda"] and len(self._loaded["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._loaded["cuda"]])
        name, keys, position, has_gauss, cached = self._loaded["numpy"]
        np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
        version, internal, gauss = self._loaded["python"]
        random.setstate((version, tuple(internal), gauss))


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, the state to resume from: every ``every_n_steps`` optimiser steps and after each epoch.

    Lightning's ModelCheckpoint writes the last state only together with a best one, or with a numbered copy.
    """

    def __init__(self, path: Path, every_n_steps: int | None, epochs: bool) -> None:
        self.path, self.every_n_steps, self.epochs = path, every_n_steps, epochs
        self._saved_at = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        step = trainer.global_step
        if self.every_n_steps is not None and step // self.every_n_steps > self._saved_at // self.every_n_steps:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epochs:
            self._save(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = trainer.global_step

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = trainer.global_step


def checkpoint_callbacks(
    folder: Path, monitor: str | None, mode: str, every_n_steps: int | None, epochs: bool
) -> list[Checkpoint]:
    """Callbacks that keep ``best.ckpt`` (by ``monitor``) and ``last.ckpt`` (to resume from) in ``folder``."""
    callbacks: list[Checkpoint] = []
    if monitor is not None:
        callbacks.append(
            ModelCheckpoint(
                folder, "best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False,
                save_on_train_epoch_end=False,
            )
        )  # fmt: skip
    callbacks.append(LastCheckpoint(folder / "last.ckpt", every_n_steps, epochs))
    return callbacks
