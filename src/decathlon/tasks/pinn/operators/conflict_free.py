"""ConFIG and its relative IMTL-G: updates that have prescribed cosines with all the gradients."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from decathlon.tasks.pinn.operators.base import GramOperator, Stateful

LENGTHS = ("projection", "min", "max", "mean", "geometric", "harmonic")
_CUTOFF = 1e-10
_SINGLE_PRECISION_LIMIT = 1e-3


class DirectionWeights(Protocol):
    """Gives direction weights from loss values, as the weightings do."""

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor: ...


def equal_cosines(gram: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Solve ``K y = w`` for the cosine matrix K of the non-zero gradients, with minimum norm.

    Eigenvalues of K below 1e-10 of the largest count as zero. If K is singular (dependent gradients) the
    result is the least-squares solution, as with the pseudo-inverse of the unit gradients.

    Args:
        gram: (m, m) Gram matrix, float64.
        weights: (m,) w.

    Returns:
        y (0 for zero gradients), ``K y`` (0 for zero gradients), the norms, and ``s = y.(K y)``, the squared
        norm of ``d = sum_i y_i u_i``.
    """
    norms = gram.diagonal().clamp(min=0).sqrt()
    active = norms > 0
    if not bool(active.all()):
        solution, reached = torch.zeros_like(norms), torch.zeros_like(norms)
        square = norms.new_zeros(())
        if bool(active.any()):
            part = equal_cosines(gram[active][:, active], weights[active])
            solution[active], reached[active], _, square = part
        return solution, reached, norms, square
    cosine = gram / torch.outer(norms, norms)
    values, vectors = torch.linalg.eigh(cosine)
    inverse = torch.where(values > _CUTOFF * values[-1], 1 / values, torch.zeros_like(values))
    target = vectors.T @ weights
    solution = vectors @ (inverse * target)
    reached = vectors @ (torch.where(inverse > 0, target, torch.zeros_like(target)))
    return solution, reached, norms, solution @ reached


class _CosineOperator(GramOperator):
    def well_conditioned(self, gram: Tensor) -> bool:
        norms = gram.diagonal().clamp(min=0).sqrt()
        if not bool((norms > 0).all()):
            return False
        return bool(torch.linalg.eigvalsh(gram / torch.outer(norms, norms))[0] > _SINGLE_PRECISION_LIMIT)


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
            values). Equal ones by default.
        length: the c_i: ``projection`` (c_i = |g_i|, the paper's), or one number for all: ``min``, ``max``,
            ``mean``, ``geometric`` or ``harmonic`` mean of the norms, or an index: the norm of that gradient.
    """

    def __init__(
        self,
        weights: Sequence[float] | Tensor | DirectionWeights | None = None,
        length: str | int = "projection",
    ) -> None:
        if isinstance(length, bool) or not (isinstance(length, int) or length in LENGTHS):
            raise ValueError(
                f"length={length!r} is no length model; choose {', '.join(LENGTHS)} or a loss's index"
            )
        self.length = length
        self.weighting: DirectionWeights | None = None
        self.weights: Tensor | None = None
        if weights is None:
            return
        if callable(weights):
            self.weighting = weights
        else:
            self.weights = torch.as_tensor(weights, dtype=torch.float64).cpu()
            if self.weights.ndim != 1 or not bool((self.weights > 0).all()):
                raise ValueError(
                    f"direction weights must be positive, one for each loss; got {self.weights.tolist()}"
                )

    def __call__(self, gradients: Tensor, losses: Tensor | None = None) -> Tensor:
        if self.weighting is not None:
            if losses is None:
                raise ValueError(
                    "direction weights that come from a weighting need the loss values: operator(G, losses)"
                )
            self.weights = self.weighting(losses, gradients).double().cpu()
        return super().__call__(gradients, losses)

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        weights = torch.ones(len(gram), dtype=torch.float64) if self.weights is None else self.weights
        if len(weights) != len(gram):
            raise ValueError(f"{len(weights)} direction weights for {len(gram)} gradients")
        solution, reached, norms, square = equal_cosines(gram, weights)
        if float(square) <= 1e-14 * float(weights @ weights):
            return torch.zeros_like(norms)
        active = norms > 0
        scale = (self._lengths(norms, active) * reached).sum() / square
        return torch.where(active, scale * solution / norms, torch.zeros_like(norms))

    def _lengths(self, norms: Tensor, active: Tensor) -> Tensor:
        """c_i of the length model; ``c_i cos_i = c_i reached_i / sqrt(s)``."""
        if isinstance(self.length, int):
            if not -len(norms) <= self.length < len(norms):
                raise ValueError(f"length={self.length} is no index of {len(norms)} losses")
            return norms[self.length].expand_as(norms)
        if self.length == "projection":
            return norms
        present = norms[active]
        if self.length == "min":
            value = present.min()
        elif self.length == "max":
            value = present.max()
        elif self.length == "mean":
            value = present.mean()
        elif self.length == "geometric":
            value = present.log().mean().exp()
        else:
            value = len(present) / (1 / present).sum()
        return value.expand_as(norms)

    def state_dict(self) -> dict[str, Any]:
        """The state of the weighting that gives the direction weights, if there is one."""
        return {"weighting": self.weighting.state_dict()} if isinstance(self.weighting, Stateful) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        if state and isinstance(self.weighting, Stateful):
            self.weighting.load_state_dict(state["weighting"])


class IMTLG(_CosineOperator):
    """IMTL-G (Liu et al., ICLR 2021): the combination with ``sum_i c_i = 1`` and equal projections ``g.u_i``.

    With the y of ConFIG: ``update = (sum_i y_i u_i) / (sum_i y_i/|g_i|)``. It is parallel to ConFIG, or
    anti-parallel: for three or more losses the denominator can be negative, and the update then ascends every
    loss. Zero gradients are left out.
    """

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        solution, _, norms, _ = equal_cosines(gram, torch.ones(len(gram), dtype=torch.float64))
        share = torch.where(norms > 0, solution / norms, torch.zeros_like(norms))
        total = share.sum()
        return share / total if float(total) != 0 else torch.zeros_like(norms)
