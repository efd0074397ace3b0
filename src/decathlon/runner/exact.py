"""A resumed run draws what the whole one would have drawn: random states, and batches in the middle of an epoch."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops import fit_loop
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.trainer.states import RunningStage

from decathlon.errors import ConfigError

State = dict[str, Any]


def random_state() -> State:
    """The global random states of torch, NumPy and Python, as tensors, numbers and lists."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: State) -> None:
    """Put a state of :func:`random_state` back."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


class Fetcher(_PrefetchDataFetcher):
    """Lightning's fetcher of training batches, which notes the random states that an epoch's order is drawn from.

    A loader draws when its iterator is made and again at the first batch. Both states are in every checkpoint. A run
    that resumes in the middle of an epoch makes the iterator from them anew, passes over the batches that are done,
    and goes on with the random state of the checkpoint. One that resumes between epochs makes it where the whole run
    would: after all hooks of the epoch's start.
    """

    made: State | None = None
    first: State | None = None
    resume: "RandomState | None" = None

    def __iter__(self) -> "Fetcher":
        self.made, self.first = self.states(), None
        super().__iter__()
        return self

    def __next__(self) -> Any:
        if self.resume is not None:
            self._catch_up(self.resume)
        elif self.first is None:
            self.first = self.states()
        return super().__next__()

    def _catch_up(self, loaded: "RandomState") -> None:
        self.resume = None
        done, order, now = self.fetched, loaded.order, loaded.state
        if not done:
            iter(self)
            self.first = self.states()
            return
        if order is None or now is None:
            raise ConfigError("this checkpoint, of an older version, stands in the middle of an epoch; use force=true")
        self.set_states(order[0])
        iter(self)
        self.set_states(order[1])
        for _ in range(done):
            super().__next__()
        self.made, self.first, self.fetched = order[0], order[1], done
        self.done = self.length is not None and done >= self.length
        self.set_states(now)

    def _generators(self) -> list[torch.Generator]:
        """The generators of their own that loaders and samplers draw from."""
        found: list[torch.Generator] = []
        for loader in self.combined_loader.flattened:
            for owner in (loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler"))):
                generator = getattr(owner, "generator", None)
                if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
                    found.append(generator)
        return found

    def states(self) -> State:
        return {**random_state(), "own": [generator.get_state() for generator in self._generators()]}

    def set_states(self, state: State) -> None:
        set_random_state(state)
        for generator, own in zip(self._generators(), state.get("own", [])):
            generator.set_state(own.cpu())


def _select(trainer: Trainer, stage: RunningStage) -> _DataFetcher:
    fetcher = _lightnings_choice(trainer, stage)
    if stage == RunningStage.TRAINING and type(fetcher) is _PrefetchDataFetcher:
        return Fetcher(fetcher.prefetch_batches)
    return fetcher


# Lightning chooses and makes the iterator in one go, so that no hook can come between.
_lightnings_choice = fit_loop._select_data_fetcher
fit_loop._select_data_fetcher = _select


class RandomState(Callback):
    """Keeps random states in checkpoints, so that a resumed run draws on. The first of a trainer's callbacks."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.order: tuple[State, State] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        fetcher = trainer.fit_loop._data_fetcher
        checkpoint["random_state"] = random_state()
        if isinstance(fetcher, Fetcher):
            checkpoint["random_state"] = fetcher.states()
            if fetcher.made is not None and fetcher.first is not None:
                checkpoint["order"] = [fetcher.made, fetcher.first]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.state, self.order = checkpoint.get("random_state"), checkpoint.get("order")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _begin_the_next_epoch(trainer)
        fetcher = trainer.fit_loop._data_fetcher
        if self.state is not None and isinstance(fetcher, Fetcher):
            if not resumable_by_itself(trainer):
                fetcher.resume = self
            fetcher.set_states(self.state)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Resumed between two epochs: what other callbacks drew at the start of the training is no part of the run.
        fetcher = trainer.fit_loop._data_fetcher
        if self.state is not None and isinstance(fetcher, Fetcher) and fetcher.resume is not None:
            fetcher.set_states(self.state)


def _begin_the_next_epoch(trainer: Trainer) -> None:
    """Let a run that resumes from the end of an epoch begin the next one, as Lightning does where epochs alone count.

    With ``max_steps`` it takes that end for a place inside the epoch: it counts the epoch twice, and one that has
    ``max_epochs`` too ends early.
    """
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end:
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]  # the loop's own setter knows better
        loop.reset()


def resumable_by_itself(trainer: Trainer) -> bool:
    """Whether every loader keeps its own place (``state_dict``), which Lightning restores."""
    loader = trainer.fit_loop._combined_loader
    return loader is not None and all(hasattr(one, "load_state_dict") for one in loader.flattened)


def inexact(trainer: Trainer) -> str | None:
    """Why a run would not resume exactly from the middle of this epoch; None if it would.

    The training data has no length (a batch is read ahead), or keeps its worker processes from epoch to epoch, or the
    module logs means over an epoch, which Lightning does not keep.
    """
    fetcher, loader = trainer.fit_loop._data_fetcher, trainer.fit_loop._combined_loader
    if not isinstance(fetcher, Fetcher) or loader is None:
        return "its training step takes batches from the loader itself"
    if fetcher.length is None:
        return "its training data has no length"
    if any(getattr(one, "persistent_workers", False) for one in loader.flattened):
        return "its loader keeps worker processes from epoch to epoch"
    means = [result.meta.name for result in trainer.fit_loop.epoch_loop._results.values() if result.meta.on_epoch]
    return f"it logs {means[0]} as a mean over the epoch" if means else None


def refuse_inexact(trainer: Trainer) -> None:
    """Refuse a checkpoint in the middle of an epoch from which a run would not resume exactly.

    Raises:
        ConfigError: see :func:`inexact`.
    """
    why = inexact(trainer)
    if why is not None:
        raise ConfigError(f"checkpoint.every_n_steps: this task cannot resume inside an epoch ({why}); set it to null")
