"""Combinations of the gradients that are found by optimisation: MGDA, CAGrad, Nash-MTL; and the plain sum."""

import math

import torch
from torch import Tensor

from decathlon.tasks.pinn.operators.base import GramOperator


class Sum(GramOperator):
    """The sum of the gradients: ``update = sum_i g_i``."""

    batched = True

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        return torch.ones(gram.shape[:-1], dtype=torch.float64)


class MGDA(GramOperator):
    """Multiple-gradient descent (Désidéri 2012; Sener & Koltun 2018): the shortest vector of the hull.

    ``update = sum_i x_i g_i`` with x the minimum of ``x.K x`` over the simplex (K the Gram matrix). With z
    the solution of ``min_{z >= 0} z.(K + 1 1^T) z/2 - sum z``, ``x = z/sum z`` has the same optimality
    conditions, so an active-set solver for non-negative least squares gives it exactly.
    """

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        from scipy.optimize import nnls

        scale = gram.diagonal().mean()
        if float(scale) == 0:
            return torch.full((len(gram),), 1 / len(gram), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(gram / scale + 1)
        kept = values > 1e-14 * values[-1]
        root = (vectors[:, kept] * values[kept].sqrt()).T
        target = (vectors[:, kept] / values[kept].sqrt()).sum(dim=0)
        solution = torch.from_numpy(nnls(root.numpy(), target.numpy())[0])
        return solution / solution.sum()


class CAGrad(GramOperator):
    """Conflict-averse gradient descent (Liu et al., NeurIPS 2021).

    With the mean gradient g_0, ``A = G G^T``, ``b = 1/m`` and ``k = c sqrt(mean A)`` (= c|g_0|), x minimises
    ``x.A b + k sqrt(x.A x)`` over the simplex; with ``g_x = sum_i x_i g_i`` the update is
    ``m (g_0 + k g_x/|g_x|)/(1 + c^2)``, which is m times the paper's mean-loss update.

    Args:
        c: how far from the mean gradient, relative to its norm; 0.4 by default.
    """

    def __init__(self, c: float = 0.4) -> None:
        if not 0 <= c < 1:
            raise ValueError(f"c={c} must be in [0, 1)")
        self.c = c

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        from scipy.optimize import minimize

        count = len(gram)
        uniform = torch.full((count,), 1 / count, dtype=torch.float64)
        scale = float(gram.diagonal().mean())
        mean_square = float(gram.mean())
        if scale == 0 or mean_square <= 0:
            return torch.ones(count, dtype=torch.float64)
        matrix = (gram / scale).numpy()
        overlap = matrix.mean(axis=1)
        radius = self.c * math.sqrt(mean_square / scale)

        def objective(x):  # value and gradient
            product = matrix @ x
            norm = math.sqrt(max(float(x @ product), 1e-16))
            return float(x @ overlap) + radius * norm, overlap + radius * product / norm

        found = minimize(
            objective,
            uniform.numpy(),
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: x * 0 + 1},
            options={"ftol": 1e-10, "maxiter": 200},
        )
        weights = torch.as_tensor(found.x, dtype=torch.float64).clamp(min=0)
        norm = float((weights @ gram @ weights).clamp(min=0).sqrt())
        step = self.c * math.sqrt(mean_square) / norm if norm > 0 else 0.0
        return count * (uniform + step * weights) / (1 + self.c**2)


class NashMTL(GramOperator):
    """Nash bargaining (Navon et al., ICML 2022): ``sum_i a_i g_i`` with a > 0 and ``(G G^T) a = 1/a``.

    That is the optimality condition of the strictly convex ``a.K a/2 - sum log a``, which is solved by damped
    Newton steps to machine precision; the paper's code approximates it by at most 20 convex-concave
    iterations. K is G G^T divided by its Frobenius norm, as there. Zero gradients are left out.
    """

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        active = gram.diagonal() > 0
        result = torch.zeros(len(gram), dtype=torch.float64)
        if bool(active.any()):
            matrix = gram[active][:, active]
            result[active] = _bargain(matrix / torch.linalg.matrix_norm(matrix))
        return result


def _bargain(matrix: Tensor, steps: int = 100) -> Tensor:
    """a > 0 with ``matrix a = 1/a``, by damped Newton on a self-concordant function."""
    # A slight ridge: with exactly opposed gradients the function has no minimum.
    matrix = matrix + 1e-12 * torch.eye(len(matrix), dtype=matrix.dtype)
    a = 1 / matrix.diagonal().sqrt()
    for _ in range(steps):
        slope = matrix @ a - 1 / a
        curvature = matrix + torch.diag(1 / a**2)
        step = torch.linalg.solve(curvature, slope)
        decrement = float((slope @ step).clamp(min=0).sqrt())
        a = a - step / (1 + decrement) if decrement > 0.25 else a - step
        if decrement < 1e-12:
            break
    return a
