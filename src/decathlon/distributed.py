"""Several processes as one: how many there are, and sums, means and rows over all of them.

Without ``torch.distributed`` every function answers for one process.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size(group: "dist.ProcessGroup | None" = None) -> int:
    """How many processes work together."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: "dist.ProcessGroup | None" = None) -> int:
    """The number of this process, from 0."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def is_distributed(group: "dist.ProcessGroup | None" = None) -> bool:
    """Whether this process works together with others."""
    return world_size(group) > 1


def average(values: Tensor, group: "dist.ProcessGroup | None" = None) -> None:
    """Replace ``values`` by their mean over all processes, in place."""
    if is_distributed(group):
        dist.all_reduce(values, group=group)
        values /= world_size(group)


def total(number: int, device: torch.device | str = "cpu") -> int:
    """The sum of the ``number`` of every process."""
    if not is_distributed():
        return number
    count = torch.tensor([number], device=device)
    dist.all_reduce(count)
    return int(count)


def gather(part: Tensor) -> list[Tensor]:
    """The ``part`` of every process, in the order of ranks; all have one shape."""
    if not is_distributed():
        return [part]
    parts = [torch.empty_like(part) for _ in range(world_size())]
    dist.all_gather(parts, part.contiguous())
    return parts


def gather_rows(rows: Tensor, device: torch.device | str = "cpu") -> list[Tensor]:
    """The ``rows`` (m, ...) of every process, in the order of ranks, on the CPU; m may differ."""
    if not is_distributed():
        return [rows.cpu()]
    sizes = [int(size) for size in gather(torch.tensor([len(rows)], device=device))]
    padded = torch.zeros(max(sizes), *rows.shape[1:], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows.to(device)
    return [part[:size].cpu() for part, size in zip(gather(padded), sizes, strict=True)]
