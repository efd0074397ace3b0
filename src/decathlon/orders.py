"""Which samples each step of a training takes: a function of (seed, step) alone.

A loop that asks for the positions of step k needs no sampler state to resume, in the middle of an epoch too.
"""

import torch
from torch import Tensor

from decathlon.randomness import generator


class BatchOrder:
    """Batches of shuffled positions, epoch after epoch.

    Args:
        samples: n, how many there are. batch_size: of every batch; the rest of an epoch that fills none is left out,
            unless there is no whole batch at all: then each epoch is one batch of all.
        seed: of the shuffles.

    Raises:
        ValueError: there are no samples, or the batch size is not positive.
    """

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        if samples < 1 or batch_size < 1:
            raise ValueError(f"{samples} samples in batches of {batch_size}: both must be at least 1")
        self.samples, self.batch_size, self.seed = samples, min(batch_size, samples), seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return self.samples // self.batch_size

    def epoch(self, epoch: int) -> Tensor:
        """All positions in the order of an epoch: (n,) int64."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self.samples, generator=generator("order", self.seed, epoch))
        return self._order

    def batch(self, step: int) -> Tensor:
        """The positions of a step, counted from 0 over all epochs: (batch_size,) int64."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
