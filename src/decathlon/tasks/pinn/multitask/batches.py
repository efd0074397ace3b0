"""Samplers whose order is a function of (seed, epoch), with each process taking its share of every batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data.distributed import DistributedSampler


class Batches(DistributedSampler):
    """Batches of indices, for a DataLoader with ``batch_size=None`` and a dataset that is indexed by lists.

    It is a DistributedSampler in name, so that Lightning does not put another one around it, which would pad.

    Args:
        indices: (n,) of the split.
        batch_size: over all processes.
        seed: of the order; the order of an epoch is a function of (seed, epoch).
        shuffle: a new order in every epoch, without the last incomplete batch; otherwise file order and all of it.
        rank, world: of the process, which takes every world-th index of each batch.
    """

    def __init__(
        self, indices: np.ndarray, batch_size: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1
    ) -> None:
        self.indices, self.batch_size, self.seed, self.shuffle = indices, batch_size, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.indices), self.batch_size)
        return whole + (1 if rest and not (self.shuffle and whole) else 0)

    def __iter__(self) -> Iterator[Any]:
        order = self.indices
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for k in range(len(self)):
            batch = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield batch[self.rank :: self.world].tolist()


class Steps(DistributedSampler):
    """The numbers 0 ... count - 1, the same in every process: for data that is generated in the training step."""

    def __init__(self, count: int) -> None:
        self.count = count

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))
