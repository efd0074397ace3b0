"""Online principal component analysis of one gradient: loss and gradient in closed form (arXiv 2408.12857, Eq. 6).

With the normalised gradient ``N = G / ||G||`` (n, m), ``n <= m``, and a projection ``P`` (n, k) the loss is

    L(P) = ||P P' N - N||^2 + lam ||P' P - I||^2.

With ``S = P' N`` (k, m), ``B = N S'`` (n, k) and ``A = P' P`` (k, k) its gradient is

    2 [P (P' B) + B A - 2 B] + 4 lam P (A - I).

``S`` is at hand, it is the projected gradient; so one product of n m k and four of n k^2 remain. Neither the (n, n)
matrix ``P P'`` nor an (n, m) residual is formed. As n <= m, ``P' B`` costs less than its equal ``S S'``.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def pca_gradient(projection: Tensor, gradient: Tensor, lam: float = 0.0) -> Tensor:
    """The gradient of the loss at ``projection`` (n, k) for a ``gradient`` (n, m): (n, k).

    Zero where the gradient is zero, for which the loss is not defined.
    """
    norm = float(torch.linalg.vector_norm(gradient))
    if norm == 0:
        return torch.zeros_like(projection)
    return gradient_of_projected(projection, gradient, projection.mT @ gradient / norm, norm, lam)


def gradient_of_projected(
    projection: Tensor, gradient: Tensor, projected: Tensor, norm: float, lam: float,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:  # fmt: skip
    """``pca_gradient`` where the normalised projected gradient ``S`` (k, m) and the norm of the gradient are known.

    Args:
        total: where the columns of the gradient are shared out among processes, sums a matrix over them.
    """
    second = total(gradient @ projected.mT)
    second.mul_(1 / norm)  # B
    gram = projection.mT @ projection
    inner = (projection.mT @ second).mul_(2)
    if lam:
        inner.add_(gram, alpha=4 * lam)
        inner.diagonal().sub_(4 * lam)
    gram.diagonal().sub_(2)
    return torch.addmm(projection @ inner, second, gram, alpha=2)


def pca_loss(projection: Tensor, gradient: Tensor, lam: float = 0.0) -> Tensor:
    """The loss, by ``1 - 2 ||S||^2 + <A, S S'> + lam ||A - I||^2``: a scalar.

    Raises:
        ValueError: the gradient is zero.
    """
    norm = torch.linalg.vector_norm(gradient)
    if norm == 0:
        raise ValueError("the PCA loss of a zero gradient is not defined")
    projected = projection.mT @ gradient / norm
    gram = projection.mT @ projection
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    drift = (gram - identity).square().sum()
    return 1 - 2 * projected.square().sum() + (gram * (projected @ projected.mT)).sum() + lam * drift
