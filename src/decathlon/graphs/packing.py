"""A whole dataset as flat tensors, from which a batch is cut by a few vectorised gathers.

Variable-sized records (the nodes of a graph, its edges) lie one after the other in one tensor; ``starts`` says
where each begins. There is no object per graph, so a batch costs a handful of tensor operations instead of
hundreds of Python calls.
"""

from dataclasses import fields
from typing import Any, Self

import torch
from torch import Tensor


def offsets(counts: Tensor) -> Tensor:
    """Where each of m consecutive records begins, and where the last ends: (m,) counts to (m + 1,) int64."""
    return torch.nn.functional.pad(counts.long().cumsum(0), (1, 0))


def ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """The positions starts[0], starts[0]+1, … (counts[0] of them), starts[1], …: (sum of counts,) int64."""
    total = int(counts.sum())
    shift = starts - (counts.cumsum(0) - counts)
    return torch.arange(total) + torch.repeat_interleave(shift, counts, output_size=total)


class Packed:
    """A dataset of tensors that can be saved, loaded and cut by row."""

    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The dataset of ``state()``; other keys are ignored."""
        return cls(**{item.name: torch.as_tensor(state[item.name]) for item in fields(cls)})  # type: ignore[arg-type]


def pairs_within(node_starts: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different nodes of one graph, for a batch of graphs.

    Args:
        node_starts: (m + 1,) int64.

    Returns:
        Two (P,) int64 tensors of positions in the batch; the first is ascending.
    """
    count = node_starts.diff()
    per_node = torch.repeat_interleave(count, count)
    first_of_mine = torch.repeat_interleave(node_starts[:-1], count)
    i = torch.repeat_interleave(torch.arange(len(per_node), device=count.device), per_node)
    begin = per_node.cumsum(0) - per_node
    j = torch.arange(len(i), device=count.device) - begin[i] + first_of_mine[i]
    other = i != j
    return i[other], j[other]
