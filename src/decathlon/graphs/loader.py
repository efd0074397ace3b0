"""A loader that cuts batches out of packed data, and goes on in the middle of an epoch."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from decathlon.graphs.batches import Batch


class BatchLoader:
    """Iterates over one epoch of batches.

    Its state is how far the current epoch has come, so that a run that was interrupted between two batches goes on
    with the next one (Lightning saves and restores it).

    Args:
        collate: makes the batch of some positions (m,) int64.
        order: called at the start of each epoch; the epoch's positions, cut into one int64 tensor per batch.
        length: number of batches of the coming epoch.
        sampler: an object with ``set_epoch`` and ``epoch``; a Lightning Trainer calls the former before each epoch.
        batch_size: for display.
    """

    batch_sampler = None  # Lightning looks for it beside ``sampler``

    def __init__(
        self,
        collate: Callable[[Tensor], Batch],
        order: Callable[[], list[Tensor]],
        length: Callable[[], int],
        sampler: Any = None,
        batch_size: int | None = None,
    ) -> None:
        self.collate = collate
        self.order = order
        self.length = length
        self.sampler = sampler
        self.batch_size = batch_size
        self._position = {"epoch": 0, "batches": 0}
        self._resume_at: dict[str, int] | None = None

    @property
    def epoch(self) -> int:
        """The sampler's epoch."""
        return int(getattr(self.sampler, "epoch", 0))

    def __len__(self) -> int:
        return self.length()

    def __iter__(self) -> Iterator[Batch]:
        batches = self.order()
        done = 0
        if self._resume_at is not None and self._resume_at["epoch"] == self.epoch:
            done = self._resume_at["batches"]
        self._resume_at = None
        self._position = {"epoch": self.epoch, "batches": done}
        for positions in batches[done:]:
            self._position["batches"] += 1  # before the yield: a batch that was handed out counts as used
            yield self.collate(positions)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches have been handed out."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration skip the batches that were used, if it is of the same epoch."""
        self._resume_at = dict(state)
