"""Whether an epoch trains on what was selected for it, and on nothing else."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from decathlon.errors import ConfigError
from decathlon.pruning.base import positions
from decathlon.pruning.sampler import EpochSampler

_READ = "read the training set through the data module's `sampler`, for instance DataLoader(..., sampler=self.sampler)"


def index_of(batch: Any) -> Tensor | None:
    """The positions (B,) of a batch's samples in the training set: its ``index``, or its last part if it is a tuple.

    None where it says nothing of the kind.
    """
    if isinstance(batch, Mapping):
        return batch.get("index")
    if isinstance(batch, (tuple, list)):
        last = batch[-1] if batch else None
        return last if isinstance(last, Tensor) and not last.is_floating_point() else None
    index = getattr(batch, "index", None)
    return index if isinstance(index, Tensor) else None


class Allowance:
    """How often each sample may still be trained on in an epoch: what its batches take is counted.

    It notices what a loader does that does not read the selection, and integers of a batch that are no positions, such
    as the labels of an ``(x, y)``.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        chosen = torch.arange(sampler.n) if sampler.indices is None else sampler.indices
        self.epoch = sampler.epoch
        self.left = torch.bincount(chosen, minlength=sampler.n)

    def take(self, index: Tensor) -> Tensor:
        """The positions (B,) of a batch, on the CPU.

        Raises:
            ConfigError: one of them is not selected, or has been trained on as often as it was selected.
        """
        try:
            at = positions(index, len(self.left))
        except ValueError as error:
            raise ConfigError(f"a batch's `index` says which samples it holds: {error}") from error
        self.left.index_add_(0, at, torch.full_like(at, -1))
        wrong = at[self.left[at] < 0]
        if len(wrong):
            raise ConfigError(
                f"a batch says that it holds sample {int(wrong[0])}, which epoch {self.epoch} does not train on, or "
                f"not so often: {_READ}, and give each batch the positions of its samples as `index`"
            )
        return at


def check_loaders(loaders: list[Any], sampler: EpochSampler) -> None:
    """Refuse loaders of training data that cannot follow the selection.

    A loader of another kind than torch's ``DataLoader``, or with a batch sampler of its own kind, is believed; what its
    batches hold is checked by :class:`Allowance`.

    Raises:
        ConfigError: in one line, why.
    """
    if any(isinstance(s := getattr(loader, "sampler", None), EpochSampler) and s is not sampler for loader in loaders):
        raise ConfigError("the training loader reads through another EpochSampler than the one that is selected for")
    plain = [loader for loader in loaders if isinstance(loader, DataLoader)]
    if any(isinstance(loader.dataset, IterableDataset) for loader in plain):
        raise ConfigError(
            "an IterableDataset cannot be pruned: it has no positions to select; give a map-style dataset"
        )
    if not plain or len(plain) < len(loaders):
        return
    own = [loader for loader in plain if type(loader.batch_sampler) not in (BatchSampler, type(None))]
    through = [
        loader for loader in plain if sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    ]
    if not own and not through:
        raise ConfigError(f"the training loader would train on everything, whatever is selected: {_READ}")
    for loader in through:
        size = len(loader.dataset)  # type: ignore[arg-type]
        if size != sampler.n:
            raise ConfigError(f"the sampler is of {sampler.n} samples, the training set has {size}")
