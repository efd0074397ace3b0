"""Where a subspace begins, or is refreshed: orthonormal columns (n, k) from a gradient (n, m), or at random."""

import torch
from torch import Tensor

from decathlon.randomness import generator

FROM_GRADIENT = ("svd", "eigh", "randomized")
AT_RANDOM = ("qr",)
OVERSAMPLED, POWER_STEPS = 8, 2


def check_start(name: str, what: str = "init") -> None:
    """Raises ValueError, in one line, for an unknown way of finding a subspace."""
    if name not in (*FROM_GRADIENT, *AT_RANDOM):
        raise ValueError(f"{what}={name} is unknown; choose {', '.join((*FROM_GRADIENT, *AT_RANDOM))}")


def subspace(how: str, gradient: Tensor, rank: int, key: tuple[object, ...]) -> Tensor:
    """Orthonormal columns (n, rank), in storage of their own and of the gradient's dtype.

    Args:
        how: ``svd``, the left singular vectors of the largest singular values. ``eigh``: the same by the (n, n) Gram
            matrix, faster and half as precise. ``randomized``: the randomised range finder of Halko et al. (2011) with
            two power steps. ``qr``: a random subspace, uniformly distributed.
        gradient: (n, m), n <= m. rank: k <= n.
        key: of the random numbers.
    """
    n = len(gradient)
    if gradient.is_meta:
        return torch.empty(n, rank, dtype=gradient.dtype, device=gradient.device)
    if how == "qr" or not bool(gradient.any()):
        return random_subspace(n, rank, key).to(gradient)
    if how == "svd":
        return _svd(gradient, rank)
    if how == "eigh":
        return torch.linalg.eigh(gradient @ gradient.mT).eigenvectors[:, -rank:].flip(1).contiguous()
    return _randomized(gradient, rank, key)


def random_subspace(n: int, rank: int, key: tuple[object, ...]) -> Tensor:
    """Orthonormal columns (n, rank) of a uniformly distributed subspace; float64 on the CPU, equal on every device."""
    drawn = torch.randn(n, rank, dtype=torch.float64, generator=generator("subspace", *key))
    q, r = torch.linalg.qr(drawn)
    return (q * torch.sign(r.diagonal())).contiguous()  # LAPACK gives it by columns, and gradients of it are by rows


def _svd(gradient: Tensor, rank: int) -> Tensor:
    # Of the matrix as it lies in memory: signs of singular vectors are arbitrary; these are the published code's.
    if gradient.is_contiguous():
        leading = torch.linalg.svd(gradient, full_matrices=False).U[:, :rank]
    else:
        leading = torch.linalg.svd(gradient.mT, full_matrices=False).Vh[:rank].mT
    # A slice is a view that would keep all n x n of it alive.
    return leading.clone(memory_format=torch.contiguous_format)


def _randomized(gradient: Tensor, rank: int, key: tuple[object, ...]) -> Tensor:
    n, m = gradient.shape
    width = min(rank + OVERSAMPLED, n)
    drawn = torch.randn(m, width, generator=generator("range", *key)).to(gradient)
    basis = torch.linalg.qr(gradient @ drawn).Q
    for _ in range(POWER_STEPS):
        basis = torch.linalg.qr(gradient @ (gradient.mT @ basis)).Q
    inside = basis.mT @ gradient
    vectors = torch.linalg.eigh(inside @ inside.mT).eigenvectors
    return basis @ vectors[:, -rank:].flip(1)
