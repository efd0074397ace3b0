"""Second-order minimisers for networks of a few thousand parameters: dense BFGS, and Levenberg-Marquardt.

Both work on flat float64 vectors, one iteration per call, and their state can be saved between calls.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg import blas, cho_factor, cho_solve

from decathlon.equations.line_search import Array, Function, Search, strong_wolfe


class BFGS:
    """Quasi-Newton minimisation with the full inverse Hessian H.

    One symmetric product and one symmetric rank-two update for each iteration, on one triangle of H. With
    ``s = x+ - x``, ``y = g+ - g``, ``rho = 1/(s y)``::

        H+ = (I - rho s y') H (I - rho y s') + rho s s'  =  H + s v' + v s'
        v  = rho ((1 + rho y H y)/2 s - H y)

    Args:
        x: start, (P,).
        search: line search, see ``line_search.strong_wolfe``.
        gradient_tolerance: it has ended where no entry of the gradient is larger.
    """

    def __init__(self, x: Array, search: Search = strong_wolfe, gradient_tolerance: float = 1e-16) -> None:
        self.x = np.array(x, dtype=np.float64)
        self.search, self.gradient_tolerance = search, gradient_tolerance
        self.h = np.zeros((len(self.x), len(self.x)), order="F")
        self.value, self.gradient = math.nan, np.zeros_like(self.x)
        self.iterations, self.ended, self.fresh = 0, "", True
        self.before = math.nan  # the value one iteration ago
        self._reset()

    def _reset(self) -> None:
        self.h[:] = 0.0
        np.fill_diagonal(self.h, 1.0)
        self.fresh = True

    def inverse_hessian(self) -> Array:
        """H, both triangles, (P, P)."""
        lower = np.tril(self.h)
        return lower + np.tril(lower, -1).T

    def step(self, function: Function) -> bool:
        """One iteration; False, and ``ended`` says why, when there is nothing left to do."""
        if self.ended:
            return False
        if not math.isfinite(self.value):
            self.value, self.gradient = function(self.x)
            if not math.isfinite(self.value):
                self.ended = "the function is not finite at the start"
                return False
        if float(np.abs(self.gradient).max()) <= self.gradient_tolerance:
            self.ended = "the gradient vanishes"
            return False
        direction = -blas.dsymv(1.0, self.h, self.gradient, lower=1)
        found = self.search(function, self.x, direction, self.value, self.gradient, self._first(direction))
        if found is None and not self.fresh:
            # H has lost its worth to rounding: steepest descent once more.
            self._reset()
            direction = -self.gradient
            found = self.search(function, self.x, direction, self.value, self.gradient, self._first(direction))
        if found is None:
            self.ended = "no lower value is found in this precision"
            return False
        moved, change = found.length * direction, found.gradient - self.gradient
        self.update(moved, change)
        self.x = self.x + moved
        self.before, self.value, self.gradient = self.value, found.value, found.gradient
        self.iterations += 1
        return True

    def _first(self, direction: Array) -> float:
        """Length that is tried first: 1, or, while H knows no scale, what makes a step of length 1 at most."""
        return min(1.0, 1.0 / float(np.linalg.norm(direction))) if self.fresh else 1.0

    def update(self, moved: Array, change: Array) -> None:
        """Put a pair (s, y) into H; a pair without positive curvature is left out."""
        product = float(moved @ change)
        if not product > 1e-300:
            return
        rho = 1.0 / product
        hy = blas.dsymv(1.0, self.h, change, lower=1)
        v = rho * (0.5 * (1.0 + rho * float(change @ hy)) * moved - hy)
        self.h = blas.dsyr2(1.0, moved, v, lower=1, a=self.h, overwrite_a=1)
        self.fresh = False

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and numbers; H as its lower triangle, column by column."""
        rows, columns = np.tril_indices(len(self.x))
        return {
            "x": torch.from_numpy(self.x.copy()),
            "h": torch.from_numpy(self.h[rows, columns]),
            "value": self.value,
            "before": self.before,
            "gradient": torch.from_numpy(self.gradient.copy()),
            "iterations": self.iterations,
            "ended": self.ended,
            "fresh": self.fresh,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, to the same bits."""
        self.x, self.gradient = state["x"].numpy().copy(), state["gradient"].numpy().copy()
        self.h = np.zeros((len(self.x), len(self.x)), order="F")
        self.h[np.tril_indices(len(self.x))] = state["h"].numpy()
        self.value, self.before = float(state["value"]), float(state["before"])
        self.iterations, self.ended, self.fresh = int(state["iterations"]), str(state["ended"]), bool(state["fresh"])


Residuals = Callable[[Array], tuple[Array, Array]]


class LevenbergMarquardt:
    """Least squares by damped Gauss-Newton steps: ``(J'J + mu I) d = -J'r``.

    The damping follows the ratio of the true to the predicted decrease (Nielsen 1999).

    Args:
        x: start, (P,).
        damping: first ``mu``, as a share of the largest diagonal entry of ``J'J``.
    """

    def __init__(self, x: Array, damping: float = 1e-3) -> None:
        self.x, self.mu, self.nu = np.array(x, dtype=np.float64), -float(damping), 2.0
        self.value, self.iterations, self.ended = math.nan, 0, ""

    def step(self, residuals: Callable[[Array], Array], jacobian: Residuals) -> bool:
        """One accepted step; False, and ``ended`` says why, when there is none.

        Args:
            residuals: x -> r (M,). jacobian: x -> r (M,), J (M, P).
        """
        if self.ended:
            return False
        r, j = jacobian(self.x)
        value = float(r @ r)
        self.value = value
        if not (math.isfinite(value) and np.isfinite(j).all()):
            self.ended = "the residuals or their Jacobian are not finite"
            return False
        normal, slope = j.T @ j, j.T @ r
        if self.mu < 0:
            self.mu = -self.mu * max(float(normal.diagonal().max()), 1e-300)
        for _ in range(30):
            damped = normal.copy()
            damped[np.diag_indices_from(damped)] += self.mu
            try:
                d = -cho_solve(cho_factor(damped, overwrite_a=True), slope)
            except np.linalg.LinAlgError:
                self.mu, self.nu = self.mu * self.nu, 2 * self.nu
                continue
            trial = residuals(self.x + d)
            found = float(trial @ trial)
            predicted = float(d @ (self.mu * d - slope))
            ratio = (value - found) / predicted if predicted > 0 else -1.0
            if math.isfinite(found) and ratio > 0:
                self.x, self.value = self.x + d, found
                self.mu, self.nu = self.mu * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
                self.iterations += 1
                return True
            self.mu, self.nu = self.mu * self.nu, 2 * self.nu
        self.ended = "no lower value is found in this precision"
        return False

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and numbers."""
        kept = {name: getattr(self, name) for name in ("mu", "nu", "value", "iterations", "ended")}
        return {"x": torch.from_numpy(self.x.copy()), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, to the same bits."""
        self.x = state["x"].numpy().copy()
        self.mu, self.nu, self.value = float(state["mu"]), float(state["nu"]), float(state["value"])
        self.iterations, self.ended = int(state["iterations"]), str(state["ended"])
