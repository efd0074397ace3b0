"""Checkpoints that survive a kill at any moment, a move of their folder, and load without executing code."""

import contextlib
import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from decathlon import files
from decathlon.runner.exact import refuse_inexact
from decathlon.runner.job import read_json

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there in one step; loads with ``weights_only=True``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with files.atomic(path) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:
                if shutil.disk_usage(temporary.parent).free < 1 << 20:  # torch does not say what was wrong
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
                raise

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose state names files and no folders.

    Lightning's own forgets its best score when the folder has another path than before, and goes on with a best
    checkpoint that is not the best.
    """

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = Path(state[key]).name if state[key] else ""
        state["best_k_models"] = {Path(path).name: score for path, score in state["best_k_models"].items()}
        return {**state, "dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else ""

        state = {**state_dict, "dirpath": self.dirpath}
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = here(state[key])
        state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items()}
        super().load_state_dict(state)


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, the state to resume from: every ``every_n_steps`` optimiser steps and after each epoch.

    Lightning's ModelCheckpoint writes the last state only together with a best one, or with a numbered copy. The one
    before stays as ``previous.ckpt`` until training has ended, for the case that the disk damages the last.
    What training has logged so far is in it, for a run that is killed when all of that has been logged.
    """

    def __init__(self, path: Path, every_n_steps: int | None, epochs: bool) -> None:
        self.path, self.every_n_steps, self.epochs = path, every_n_steps, epochs
        self.logged: dict[str, float] = {}
        self._saved_at, self._warned = 0, False

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        step = trainer.global_step
        if self.every_n_steps is None or step // self.every_n_steps == self._saved_at // self.every_n_steps:
            return
        if self.is_between_batches(trainer):
            refuse_inexact(trainer)
            self.save(trainer)

    @staticmethod
    def is_between_batches(trainer: Trainer) -> bool:
        """Whether a run could resume at this batch's end.

        Before a validation, or at the end of an epoch, a resumed run would take both as done: at the next batch then.
        """
        loop = trainer.fit_loop.epoch_loop
        ends = loop.batch_progress.is_last_batch or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        return not ends and not loop._should_accumulate()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epochs or self._is_due(trainer):
            self.save(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["logged"] = {**self.logged, **{k: float(v) for k, v in trainer.callback_metrics.items()}}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.logged = checkpoint.get("logged", {})

    def _is_due(self, trainer: Trainer) -> bool:
        n = self.every_n_steps
        return n is not None and trainer.global_step // n > self._saved_at // n

    def save(self, trainer: Trainer) -> None:
        """Write the state that a run goes on from."""
        if getattr(trainer.fit_loop._data_fetcher, "length", 0) is None:
            # Lightning resumes such an epoch elsewhere than it stopped: better no state than one that leads astray.
            if not self._warned:
                log.warning("the training data has no length: if this job is killed, it begins anew")
            self._warned = True
            return
        keep_previous(self.path, trainer)
        trainer.save_checkpoint(self.path)
        self._saved_at = trainer.global_step


def keep_previous(path: Path, trainer: Trainer) -> None:
    """Give the last checkpoint a second name, which stays when a new one takes its place; no copy is made."""
    if trainer.is_global_zero and path.is_file():
        second = path.with_name(".previous.ckpt")
        with contextlib.suppress(OSError):  # a file system without links: then there is no second one
            second.unlink(missing_ok=True)
            os.link(path, second)
            second.replace(path.with_name("previous.ckpt"))


def mend(folder: Path) -> list[str]:
    """Set aside what cannot be read of a job's state, and go back to the best that remains. Under the job's lock.

    A damaged last checkpoint leaves the one before it. A damaged best one leaves none that leads to the same result:
    the training is done anew.

    Returns:
        One line for each file that was set aside.
    """
    checkpoints, said = folder / "checkpoints", []
    last, best, fitted = checkpoints / "last.ckpt", checkpoints / "best.ckpt", folder / "fit.json"
    files.remove_temporaries(folder)
    files.remove_temporaries(checkpoints)
    fit = read_json(fitted)
    if fit is None and fitted.exists():
        said.append(f"{fitted} cannot be read; kept as {files.set_aside(fitted).name}")
    if fit is not None and _usable(checkpoints / (fit.get("best") or "last.ckpt"), said) is not None:
        return said  # training has ended; the test needs this one only
    previous = checkpoints / "previous.ckpt"
    resume = _usable(last, said)
    if resume is None:
        resume = _usable(previous, said)
        if resume is not None:
            previous.replace(last)
            said.append(f"going on from the checkpoint before it (step {resume['step']})")
    had_ended = fitted.exists()
    fitted.unlink(missing_ok=True)
    if resume is not None and (not resume["best"] or _usable(best, said) is not None):
        return said
    if said or had_ended:
        said.append(f"no state of {folder} is left to go on from; training begins anew")
    for path in (last, previous, best):
        path.unlink(missing_ok=True)
    return said


def _usable(path: Path, said: list[str]) -> dict[str, Any] | None:
    """What matters of a checkpoint, or None: if it is there and cannot be read, it is set aside."""
    state = _state(path) if path.exists() else None
    if state is None and path.exists():
        said.append(f"{path} cannot be read; kept as {files.set_aside(path).name}")
    return state


def _state(path: Path) -> dict[str, Any] | None:
    """What matters here of a checkpoint: its step, and whether it speaks of a best one; None if it cannot be read."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        callbacks = loaded.get("callbacks", {})
        best = any(state.get("best_model_path") for state in callbacks.values() if isinstance(state, dict))
        return {"step": int(loaded["global_step"]), "best": best}
    except Exception:  # torch raises half a dozen types on broken files
        return None


def checkpoint_callbacks(
    folder: Path, monitor: str | None, mode: str, every_n_steps: int | None, epochs: bool
) -> list[Checkpoint]:
    """Callbacks that keep ``best.ckpt`` (by ``monitor``) and ``last.ckpt`` (to resume from) in ``folder``."""
    callbacks: list[Checkpoint] = []
    if monitor is not None:
        callbacks.append(
            BestCheckpoint(
                folder, "best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False,
                save_on_train_epoch_end=False,
            )
        )  # fmt: skip
    callbacks.append(LastCheckpoint(folder / "last.ckpt", every_n_steps, epochs))
    return callbacks
