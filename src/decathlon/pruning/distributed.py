"""Make the pruners of several processes equal: each has seen the losses of its own batches only."""

import torch
from torch import Tensor

from decathlon.distributed import gather_rows, is_distributed
from decathlon.pruning.base import Pruner


def merge(pruner: Pruner, seen: Tensor, device: torch.device | str = "cpu") -> None:
    """Give the pruner of every process the state of all samples that any process has ``seen`` since the last merge.

    A sample that several processes have seen (the sampler repeats those of a batch that is too small to share) takes
    the state of the highest rank, everywhere; its count adds up as if it had been seen once.

    Args:
        seen: (m,) int64 positions whose state this process has changed.
    """
    if not is_distributed():
        return
    at = gather_rows(seen.unique(), device)
    for name in ("count", *pruner.per_sample):
        state: Tensor = getattr(pruner, name)
        for positions, values in zip(at, gather_rows(state[seen.unique()], device), strict=True):
            state[positions] = values
