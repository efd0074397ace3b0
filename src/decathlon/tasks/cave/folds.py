"""Sums and products over one axis in an order that padding does not change.

Half of the slices are added to the other half, and so on, halves being powers of two: few large operations, and zeros
appended to the axis (ones, for a product) leave every bit of the result as it was.
"""

import torch
from torch import Tensor


def halves(x: Tensor, dim: int) -> list[tuple[Tensor, Tensor]]:
    """Pairs of views (into, from) of ``x``: adding each ``from`` to its ``into``, in turn, sums the axis ``dim``.

    The sum is then in the first slice, ``x.select(dim, 0)``.
    """
    pairs = []
    size = x.shape[dim]
    while size > 1:
        half = 1 << (size - 1).bit_length() - 1
        pairs.append((x.narrow(dim, 0, size - half), x.narrow(dim, half, size - half)))
        size = half
    return pairs


def folded_sum(x: Tensor, dim: int) -> Tensor:
    """Sum over ``dim``; ``x`` stays as it is."""
    if x.shape[dim] == 0:
        return x.sum(dim)
    work = x.clone()
    for into, other in halves(work, dim):
        into.add_(other)
    return work.select(dim, 0)


def folded_product(x: Tensor, dim: int) -> Tensor:
    """Product over ``dim``; ``x`` stays as it is."""
    if x.shape[dim] == 0:
        return torch.ones_like(x.sum(dim))
    work = x.clone()
    for into, other in halves(work, dim):
        into.mul_(other)
    return work.select(dim, 0)
