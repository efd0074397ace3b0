"""Sums over the neighbours of each node and over the nodes of each graph."""

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
    """For each node the sum of ``h`` over its neighbours: (N, D).

    ``embedding_bag`` gathers and adds in one pass, without an (E, D) array of messages between; on a CPU that is
    ten times faster than ``index_select`` and ``index_add``.

    Args:
        h: (N, D). neighbours: (E,) int64. starts: (N + 1,) int64, CSR row pointers. The adjacency must be
            symmetric: each edge appears once per end. (For others: ``sum_messages``.)
    """
    return _SumNeighbours.apply(h, neighbours, starts)


class _SumWeighted(torch.autograd.Function):
    """W h for a matrix W in CSR form whose pattern is symmetric: its transpose has the weights of the reverse edges."""

    @staticmethod
    def forward(h: Tensor, weight: Tensor, neighbours: Tensor, starts: Tensor, reverse: Tensor) -> Tensor:
        return embedding_bag(neighbours, h, starts, mode="sum", include_last_offset=True, per_sample_weights=weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        h, weight, neighbours, starts, reverse = ctx.saved_tensors
        for_h = for_weight = None
        if ctx.needs_input_grad[0]:
            for_h = _SumWeighted.apply(gradient.contiguous(), weight[reverse], neighbours, starts, reverse)
        if ctx.needs_input_grad[1]:
            to = torch.repeat_interleave(gradient, starts.diff(), 0, output_size=len(neighbours))
            for_weight = (h.index_select(0, neighbours) * to).sum(1)
        return for_h, for_weight, None, None, None


def sum_weighted_neighbours(h: Tensor, weight: Tensor, neighbours: Tensor, starts: Tensor, reverse: Tensor) -> Tensor:
    """For each node v the sum of w_uv h_u over its neighbours u: (N, D).

    As ``sum_neighbours`` it forms no (E, D) array, but for the gradient of the weights.

    Args:
        h: (N, D). weight: (E,), of the edge from ``neighbours[e]`` to the node that e belongs to.
        neighbours, starts: as for ``sum_neighbours``; the pattern must be symmetric, the weights need not be.
        reverse: (E,) int64, ``GraphBatch.reverse``.
    """
    return _SumWeighted.apply(h, weight, neighbours, starts, reverse)


class _GatherEnds(torch.autograd.Function):
    """a[source] + b[target] for a symmetric CSR pattern; both gradients are sums over consecutive rows."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, neighbours: Tensor, starts: Tensor, reverse: Tensor) -> Tensor:
        to = torch.repeat_interleave(b, starts.diff(), 0, output_size=len(neighbours))
        return to.add_(a.index_select(0, neighbours))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[3:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        starts, reverse = ctx.saved_tensors
        gradient = gradient.contiguous()
        for_a = embedding_bag(reverse, gradient, starts, mode="sum", include_last_offset=True)
        return for_a, sum_segments(gradient, starts), None, None, None


def gather_ends(a: Tensor, b: Tensor, neighbours: Tensor, starts: Tensor, reverse: Tensor) -> Tensor:
    """For each edge from u to v ``a[u] + b[v]``: (E, D).

    Args:
        a, b: (N, D). neighbours, starts, reverse: as for ``sum_weighted_neighbours``; the pattern must be symmetric.
    """
    return _GatherEnds.apply(a, b, neighbours, starts, reverse)


def sum_messages(messages: Tensor, target: Tensor, nodes: int) -> Tensor:
    """Sums of the messages (E, D) that go to each of N ``nodes``: (N, D). ``target`` (E,) int64 in any order."""
    return messages.new_zeros(nodes, *messages.shape[1:]).index_add(0, target, messages)


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
