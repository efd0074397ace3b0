"""The order in which the rows of a log are trained on."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from decathlon.orders import BatchOrder
from decathlon.randomness import generator


class Steps(IterableDataset):
    """As many empty batches as an epoch has steps: what a step sees is a function of its number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def __len__(self) -> int:
        return self.count


class BucketOrder(BatchOrder):
    """Batches of rows of similar length: rows are shuffled, sorted by length inside of pools, and batches shuffled.

    Args:
        lengths: of the rows, (n,). pool: batches per pool.
    """

    def __init__(self, lengths: Tensor, batch_size: int, seed: int, pool: int = 32) -> None:
        super().__init__(len(lengths), batch_size, seed)
        self.lengths, self.pool, self._bucketed = lengths, pool, -1

    def epoch(self, epoch: int) -> Tensor:
        if epoch == self._bucketed:
            return self._order
        order = super().epoch(epoch)
        parts = [part[self.lengths[part].argsort(stable=True)] for part in order.split(self.pool * self.batch_size)]
        order = torch.cat(parts)
        whole = len(order) // self.batch_size * self.batch_size
        shuffled = torch.randperm(whole // self.batch_size, generator=generator("buckets", self.seed, epoch))
        self._order = torch.cat([order[:whole].view(-1, self.batch_size)[shuffled].flatten(), order[whole:]])
        self._bucketed = epoch
        return self._order
