"""Messages on the graph of users and items: normalised adjacencies, sparse products with gradients, LightGCN."""

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

Norm = Literal["symmetric", "rows", "none"]


def edges(user: Tensor, item: Tensor, users: int) -> Tensor:
    """(2, 2n) int64, target and source: each pair in both directions; nodes are the users, then the items."""
    node = item + users
    return torch.stack([torch.cat([user, node]), torch.cat([node, user])])


class Adjacency(torch.nn.Module):
    """A sparse matrix (N, N) that multiplies dense ones, with gradients for the dense one only.

    Both it and its transpose are kept in rows: on a CPU that is several times as fast as the default coordinates.

    Args:
        edge_index: (2, m) int64, target and source: entry (target, source). Repeated ones add up.
        nodes: N.
        weight: (m,) of each edge; 1 by default.
        norm: ``symmetric``: D^-1/2 A D^-1/2; ``rows``: D^-1 A; ``none``. Nodes without an edge get zeros.
        loops: add the identity first.
        columns: width of the matrix, for one that is not square; then ``symmetric`` takes each side's own degrees.
    """

    def __init__(
        self, edge_index: Tensor, nodes: int, weight: Tensor | None = None, norm: Norm = "symmetric",
        loops: bool = False, columns: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if norm not in ("symmetric", "rows", "none"):
            raise ValueError(f"norm={norm} is unknown; choose symmetric, rows or none")
        width = nodes if columns is None else columns
        weight = torch.ones(edge_index.shape[1]) if weight is None else weight.float()
        if loops:
            own = torch.arange(nodes).expand(2, -1)
            edge_index, weight = torch.cat([edge_index, own], 1), torch.cat([weight, torch.ones(nodes)])
        target, source = edge_index
        degree = torch.zeros(nodes).index_add(0, target, weight)
        if norm == "rows":
            weight = weight * _inverse(degree)[target]
        elif norm == "symmetric":
            incoming = degree if columns is None else torch.zeros(width).index_add(0, source, weight)
            weight = weight * _inverse(degree).sqrt()[target] * _inverse(incoming).sqrt()[source]
        self.register_buffer("matrix", _rows(target, source, weight, (nodes, width)), persistent=False)
        self.register_buffer("transposed", _rows(source, target, weight, (width, nodes)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The product with ``x`` (N, d): (N, d)."""
        return _Product.apply(x, self.matrix, self.transposed)


def _rows(target: Tensor, source: Tensor, weight: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix in compressed rows, repeated entries added up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the format beta
        whole = torch.sparse_coo_tensor(torch.stack([target, source]), weight, shape, check_invariants=False)
        return whole.coalesce().to_sparse_csr()


def _inverse(degree: Tensor) -> Tensor:
    return torch.where(degree > 0, 1 / degree, 0.0)


class _Product(torch.autograd.Function):
    """``matrix @ x``; the gradient is the product with the transpose that is kept beside it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ gradients[0].contiguous(), None, None


def propagate(adjacency: torch.nn.Module, x: Tensor, layers: int) -> Tensor:
    """LightGCN (arXiv 2002.02126): the mean of x, A x, ..., A^layers x: (N, d)."""
    total = x
    for _ in range(layers):
        x = adjacency(x)
        total = total + x
    return total / (layers + 1)
