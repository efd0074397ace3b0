"""Sums over the neighbours of each atom and over the atoms of each molecule."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class _SumNeighbours(torch.autograd.Function):
    """A h for a symmetric 0/1 matrix A in CSR form; since A is its own transpose, the gradient is A times it."""

    @staticmethod
    def forward(h: Tensor, neighbours: Tensor, starts: Tensor) -> Tensor:
        return embedding_bag(neighbours, h, starts, mode="sum", include_last_offset=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        neighbours, starts = ctx.saved_tensors
        return _SumNeighbours.apply(gradient.contiguous(), neighbours, starts), None, None


def sum_neighbours(h: Tensor, neighbours: Tensor, starts: Tensor) -> Tensor:
    """For each atom the sum of ``h`` over its neighbours: (N, D).

    ``embedding_bag`` gathers and adds in one pass, without an (E, D) array of messages between; on a CPU that is
    ten times faster than ``index_select`` and ``index_add``.

    Args:
        h: (N, D). neighbours: (E,) int64. starts: (N + 1,) int64, CSR row pointers. The adjacency must be
            symmetric: each bond appears once per end.
    """
    return _SumNeighbours.apply(h, neighbours, starts)


class _SumSegments(torch.autograd.Function):
    """Sum of consecutive rows; the gradient of a row is that of its segment."""

    @staticmethod
    def forward(h: Tensor, starts: Tensor) -> Tensor:
        rows = torch.arange(len(h), device=h.device)
        return embedding_bag(rows, h, starts, mode="sum", include_last_offset=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.rows = len(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (starts,) = ctx.saved_tensors
        return torch.repeat_interleave(gradient, starts.diff(), 0, output_size=ctx.rows), None


def sum_segments(h: Tensor, starts: Tensor) -> Tensor:
    """Sums of the consecutive rows ``starts[i]`` to ``starts[i + 1]`` of ``h`` (N, D): (m, D)."""
    return _SumSegments.apply(h, starts)


def mean_segments(h: Tensor, starts: Tensor) -> Tensor:
    """Means of the consecutive rows ``starts[i]`` to ``starts[i + 1]`` of ``h`` (N, D): (m, D)."""
    return sum_segments(h, starts) / starts.diff().clamp(min=1)[:, None]
