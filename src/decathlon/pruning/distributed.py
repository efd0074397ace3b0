"""Make the pruners of several processes equal: each has seen the losses of its own batches only."""

import torch
from torch import Tensor

from decathlon.pruning.base import Pruner


def is_distributed() -> bool:
    """Whether this process trains together with others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and _world() > 1


def gather_rows(rows: Tensor, device: torch.device | str = "cpu") -> list[Tensor]:
    """The ``rows`` (m, ...) of every process, in the order of ranks; m may differ."""
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(_world())]
    torch.distributed.all_gather(sizes, torch.tensor([len(rows)], device=device))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows.to(device)
    parts = [torch.zeros_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    return [part[: int(size)].cpu() for part, size in zip(parts, sizes, strict=True)]


def total(number: int, device: torch.device | str = "cpu") -> int:
    """The sum of the ``number`` of every process."""
    if not is_distributed():
        return number
    count = torch.tensor([number], device=device)
    torch.distributed.all_reduce(count)
    return int(count)


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


def _world() -> int:
    return torch.distributed.get_world_size()
