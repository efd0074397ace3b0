"""ConFIG and its relative IMTL-G: updates that have prescribed cosines with all the gradients."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from decathlon.tasks.pinn.errors import NotFiniteError
from decathlon.tasks.pinn.operators.base import GramOperator, Stateful

LENGTHS = ("projection", "min", "max", "mean", "geometric", "harmonic")
_CUTOFF = 1e-10
_WELL_CONDITIONED = 1e-2


class DirectionWeights(Protocol):
    """Gives direction weights from loss values, as the weightings do."""

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor: ...


def equal_cosines(gram: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Solve ``K y = w`` for the cosine matrix K of the gradients, with minimum norm.

    Eigenvalues of K below 1e-10 of the largest count as zero, which leaves zero gradients out. If K is singular
    (dependent gradients) the result is the least-squares solution, as with the pseudo-inverse of the unit
    gradients. If nothing is left of w (exactly opposed gradients), all is zero.

    Args:
        gram: (..., m, m) Gram matrices, float64.
        weights: (m,) w.

    Returns:
        y (..., m), ``K y`` (..., m), the norms (..., m), and ``s = y.(K y)`` (...), the squared norm of
        ``d = sum_i y_i u_i``.
    """
    cosine, norms = _cosines(gram)
    factor = _factor(cosine)
    if factor is not None:
        solution = torch.cholesky_solve(weights.unsqueeze(1), factor).squeeze(1)
        return solution, weights, norms, solution @ weights
    values, vectors = torch.linalg.eigh(cosine)
    kept = values > _CUTOFF * values[..., -1:]
    target = torch.where(kept, (vectors * weights[:, None]).sum(dim=-2), 0.0)
    possible = target.square().sum(dim=-1, keepdim=True) > 1e-20 * weights.square().sum()
    target = torch.where(possible, target, 0.0)
    solution = (vectors * torch.where(kept, target / values, 0.0).unsqueeze(-2)).sum(dim=-1)
    reached = (vectors * target.unsqueeze(-2)).sum(dim=-1)
    return solution, reached, norms, (solution * reached).sum(dim=-1)


def _cosines(gram: Tensor) -> tuple[Tensor, Tensor]:
    """K (rows and columns of zero gradients are zero) and the norms."""
    norms = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    return gram * inverse.unsqueeze(-1) * inverse.unsqueeze(-2), norms


def _factor(cosine: Tensor) -> Tensor | None:
    """The Cholesky factor of one well-conditioned K: each gradient keeps 1 % of its squared norm beside the others."""
    if cosine.ndim > 2:
        return None
    factor, failed = torch.linalg.cholesky_ex(cosine)
    good = not int(failed) and float(factor.diagonal().min()) ** 2 > _WELL_CONDITIONED
    return factor if good else None


def _length(length: Any) -> str | int:
    """A known length model, or an index of any integer type."""
    if isinstance(length, str) and length in LENGTHS:
        return length
    try:
        index = operator.index(length)
    except TypeError:
        index = None
    if index is None or isinstance(length, bool):
        raise ValueError(f"length={length!r} is no length model; choose {', '.join(LENGTHS)} or a loss's index")
    return index


class _CosineOperator(GramOperator):
    batched = True

    def well_conditioned(self, gram: Tensor) -> bool:
        return _factor(_cosines(gram)[0]) is not None


class ConFIG(_CosineOperator):
    """Conflict-free inverse gradients (Liu, Chu & Thuerey, ICLR 2025, arXiv 2408.11104).

    With the unit gradients ``u_i = g_i/|g_i|``, their cosine matrix ``K`` and direction weights ``w``::

        K y = w,   d = sum_i y_i u_i,   g_u = d/|d|,   update = (sum_i c_i cos(g_i, g_u)) g_u

    so that ``cos(update, g_i)`` is proportional to ``w_i``; equal and positive for equal weights. This is the
    paper's ``U(pinv(U) 1)`` with the pseudo-inverse taken through the m x m matrix, which keeps its accuracy
    for any N.

    Zero gradients are left out; exactly opposed gradients give 0. If the gradients are linearly dependent the
    cosines are equal in the least-squares sense only; look at ``cosines``.

    Args:
        weights: direction weights w > 0, one for each loss, or a weighting (an object called with the loss
            values; a weight that is not positive is a ValueError). Equal ones by default.
        length: the c_i: ``projection`` (c_i = |g_i|, the paper's), or one number for all: ``min``, ``max``,
            ``mean``, ``geometric`` or ``harmonic`` mean of the norms, or an index: the norm of that gradient.
    """

    def __init__(
        self,
        weights: Sequence[float] | Tensor | DirectionWeights | None = None,
        length: str | int = "projection",
    ) -> None:
        self.length = _length(length)
        self.by_place = weights is not None or isinstance(self.length, int)
        self.weighting: DirectionWeights | None = None
        self.weights: Tensor | None = None
        if weights is None:
            return
        if callable(weights):
            self.weighting = weights
        else:
            self.weights = torch.as_tensor(weights, dtype=torch.float64).cpu()
            if self.weights.ndim != 1 or not bool(((self.weights > 0) & self.weights.isfinite()).all()):
                raise ValueError(f"direction weights must be positive, one for each loss; got {self.weights.tolist()}")

    def observe(self, gradients: Tensor, losses: Tensor | None) -> None:
        if self.weighting is None:
            return
        if losses is None:
            raise ValueError("direction weights from a weighting need the loss values: operator(gradients, losses)")
        weights, name = self.weighting(losses, gradients).double().cpu(), type(self.weighting).__name__
        if not bool(weights.isfinite().all()):
            raise NotFiniteError(f"the direction weights of {name} are not finite: {weights.tolist()}")
        if not bool((weights > 0).all()):
            raise ValueError(f"direction weights must be positive, but {name} gave {weights.tolist()}")
        self.weights = weights

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        count = gram.shape[-1]
        weights = torch.ones(count, dtype=torch.float64) if self.weights is None else self.weights
        if len(weights) != count:
            raise ValueError(f"{len(weights)} direction weights for {count} gradients")
        solution, reached, norms, square = equal_cosines(gram, weights)
        # c_i cos(g_i, g_u) = c_i reached_i / sqrt(s), and g_u = d / sqrt(s)
        scale = torch.where(square > 0, (self._lengths(norms) * reached).sum(dim=-1) / square, 0.0)
        return torch.where(norms > 0, scale.unsqueeze(-1) * solution / norms, 0.0)

    def _lengths(self, norms: Tensor) -> Tensor:
        """The c_i of the length model; zero gradients do not count in means and extremes."""
        if isinstance(self.length, int):
            if not -norms.shape[-1] <= self.length < norms.shape[-1]:
                raise ValueError(f"length={self.length} is no index of {norms.shape[-1]} losses")
            return norms[..., self.length : self.length + 1 or None]
        if self.length == "projection":
            return norms
        present = norms > 0
        count = present.sum(dim=-1, keepdim=True)
        if self.length == "min":
            return torch.where(present, norms, torch.inf).amin(dim=-1, keepdim=True).nan_to_num(posinf=0.0)
        if self.length == "max":
            return norms.amax(dim=-1, keepdim=True)
        if self.length == "mean":
            return norms.sum(dim=-1, keepdim=True) / count
        if self.length == "geometric":
            return (torch.where(present, norms.log(), 0.0).sum(dim=-1, keepdim=True) / count).exp()
        return count / torch.where(present, 1 / norms, 0.0).sum(dim=-1, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        """The state of the weighting that gives the direction weights, if there is one."""
        return {"weighting": self.weighting.state_dict()} if isinstance(self.weighting, Stateful) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned.

        Raises:
            ValueError: it is not of the same weighting.
        """
        expected = {"weighting"} if isinstance(self.weighting, Stateful) else set[str]()
        if set(state) != expected:
            raise ValueError(f"state of ConFIG has {sorted(state)}, expected {sorted(expected)}")
        if isinstance(self.weighting, Stateful):
            self.weighting.load_state_dict(state["weighting"])


class IMTLG(_CosineOperator):
    """IMTL-G (Liu et al., ICLR 2021): the combination with ``sum_i c_i = 1`` and equal projections ``g.u_i``.

    With the y of ConFIG: ``update = (sum_i y_i u_i) / (sum_i y_i/|g_i|)``. It is parallel to ConFIG, or
    anti-parallel: for three or more losses the denominator can be negative, and the update then ascends every
    loss. Zero gradients are left out.
    """

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        solution, _, norms, _ = equal_cosines(gram, torch.ones(gram.shape[-1], dtype=torch.float64))
        share = torch.where(norms > 0, solution / norms, 0.0)
        total = share.sum(dim=-1, keepdim=True)
        return torch.where(total != 0, share / total, 0.0)
