"""The sampler through which a pruner decides what an epoch trains on."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from decathlon.pruning.base import positions


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A private generator that depends on (seed, epoch) only, so that any epoch can be entered directly."""
    word = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word) >> 1)


def split_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut ``order`` into batches; a last batch of one sample joins its predecessor (BatchNorm needs two)."""
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


class EpochSampler(DistributedSampler):
    """Yields the selected positions 0..n-1 of the training set, shuffled by (seed, epoch).

    Nothing is drawn from a global generator: the order of epoch e is the same in an uninterrupted and in a
    resumed run. It is a ``DistributedSampler`` so that Lightning leaves it in its place.

    Take a whole epoch, cut into batches, by ``batches(batch_size)``: when ``torch.distributed`` is initialised the
    ranks share each batch, so that an epoch has the same batches and steps for any number of them. Or use it as
    ``sampler=`` of a ``DataLoader``: then each rank reads every world-size-th position of the common order, filled
    up from its start so that all have equally many, and the loader's ``batch_size`` is that of one rank. Before the
    first ``set_selection`` it yields the whole training set.

    Args:
        n: number of training samples.
        seed: seed of the order.

    Attributes:
        weight: (n,) float32, the loss weight of each sample (1 where nothing else was set).
        weighted: whether any weight of the selection differs from 1.
        sharded: whether each rank gets a part only; False gives every rank everything.
    """

    def __init__(self, n: int, seed: int = 0) -> None:
        if n < 1:
            raise ValueError(f"the training set has {n} samples; at least 1 is needed")
        self.n = int(n)
        self.seed = int(seed)
        self.epoch = 0
        self.sharded = True
        self.indices: Tensor | None = None
        self.weight = torch.ones(self.n)
        self.weighted = False

    def set_selection(self, indices: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Train on ``indices`` (k,) int64 with ``weights`` (k,) from the next epoch on; None: everything."""
        chosen = None if indices is None else positions(indices, self.n)
        if chosen is not None and len(chosen) < 1:
            raise ValueError(f"a selection holds at least one position, each from 0 to {self.n - 1}")
        if weights is not None and (chosen is None or weights.shape != chosen.shape):
            raise ValueError("a selection needs one weight for each of its positions, and no weights without positions")
        self.weight = torch.ones(self.n)
        self.weighted = False
        self.indices = chosen
        if self.indices is not None and weights is not None:
            self.weight[self.indices] = weights.to("cpu", torch.float32)
            self.weighted = bool((self.weight[self.indices] != 1).any())

    def set_epoch(self, epoch: int) -> None:
        """Shuffle as in ``epoch`` from the next iteration on."""
        self.epoch = int(epoch)

    def order(self) -> Tensor:
        """The positions of this rank in this epoch, in order: (len(self),) int64."""
        order = self._common_order()
        world, rank = self._world()
        if world > 1:
            order = order.repeat(-(-world // len(order)) + 1)[: world * len(self)][rank::world]
        return order

    def batches(self, batch_size: int) -> list[Tensor]:
        """This rank's part of each batch of ``batch_size`` positions of this epoch: one int64 tensor per batch.

        The parts of a batch differ by one sample at most, and together are the batch. Only where the last one has
        fewer samples than there are ranks, some of its samples go to several ranks.
        """
        batches = split_batches(self._common_order(), batch_size)
        world, rank = self._world()
        if world == 1:
            return batches
        return [batch[rank::world] if len(batch) >= world else batch[[rank % len(batch)]] for batch in batches]

    def number_of_batches(self, batch_size: int) -> int:
        """How many batches ``batches`` cuts an epoch into; the same on all ranks."""
        full, rest = divmod(self._size(), batch_size)
        return max(1, full + (rest > 1 or (rest == 1 and full == 0)))

    def __iter__(self) -> Iterator[int]:
        yield from self.order().tolist()

    def __len__(self) -> int:
        return -(-self._size() // self._world()[0])

    def _common_order(self) -> Tensor:
        """The positions of all ranks in this epoch, in order."""
        order = torch.randperm(self._size(), generator=epoch_generator(self.seed, self.epoch))
        return order if self.indices is None else self.indices[order]

    def _size(self) -> int:
        return self.n if self.indices is None else len(self.indices)

    def _world(self) -> tuple[int, int]:
        """(world size, rank), (1, 0) outside of distributed training."""
        if self.sharded and torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_world_size(), torch.distributed.get_rank()
        return 1, 0
