"""Collocation window by window: Chebyshev polynomials (``Spectral``) or random tanh features (``Windows``).

No window is longer than the shortest delay, and the breaking points are edges of windows, so the solution is smooth
in each and what is read lies behind it. In every window Gauss-Newton steps bring the residual at inner points, and
the gap at the left edge, to zero in the least-squares sense.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.equations.bases import Basis, Chebyshev, Pieces, RandomFeatures, chebyshev_roots
from decathlon.equations.breaking import breaking_points, refine
from decathlon.errors import ConfigError
from decathlon.tasks.ndde.instance import Instance
from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solution import Solution
from decathlon.tasks.ndde.solvers.base import Solver
from decathlon.tasks.ndde.solvers.collocation import Cascade
from decathlon.tasks.ndde.verdict import Fit, conclude

EDGE = 100.0
"""Weight of the gap at the left edge of a window against the residual."""


class _Windowed(Solver):
    """What both bases have in common."""

    def __init__(self, windows: int, points: int) -> None:
        if windows < 1 or points < 2:
            raise ValueError(f"windows={windows} must be at least 1 and points={points} at least 2")
        self.windows, self.points = int(windows), int(points)
        self.result: Solution | None = None

    def basis(self) -> Basis:
        raise NotImplementedError

    def accept(self, problem: DDE) -> None:
        super().accept(problem)
        if problem.initial is not None and problem.history is not None:
            raise ConfigError(f"{type(self).__name__} needs a solution that is continuous at the start; choose Steps")

    def advance(self) -> dict[str, float]:
        self.result, worst = solve_by_windows(self.problem.instance(), self.basis(), self.windows, self.points)
        return {"residual": worst}

    def solution(self) -> Solution:
        assert self.result is not None
        return self.result

    def state_dict(self) -> dict[str, Any]:
        if self.result is None:
            return {}
        pieces = self.result.values
        assert isinstance(pieces, Pieces)
        return {"edges": pieces.edges, "coefficients": pieces.coefficients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            pieces = Pieces(self.basis(), state["edges"], state["coefficients"])
            self.result = Solution(self.problem, pieces, self.problem.instance().past)


class Spectral(_Windowed):
    """Chebyshev collocation: one polynomial for every window, exact at as many inner points as it has degrees.

    Args:
        degree: of the polynomials. windows: at least so many over the interval.
    """

    def __init__(self, degree: int = 12, windows: int = 10) -> None:
        super().__init__(windows, degree)
        self.degree = int(degree)

    def basis(self) -> Basis:
        return Chebyshev(self.degree)


class Windows(_Windowed):
    """A small network for every window, with fixed random hidden features and a trained output layer.

    Forward problems are solved window by window. For unknown delays, parameters and histories all windows and all
    unknowns are found together by Levenberg-Marquardt, first with little weight on the equation, so that the curve
    follows the observations, then with more and more (parameter cascading).

    Args:
        features: random tanh features of each window. points: collocation points in each. windows: at least so many.
        spread: of the features' weights and biases.
        inverse_windows, inverse_features, inverse_points: the same for inverse problems.
        weights: on the equation's residual against the observations', one stage for each.
        iterations: at most, of each stage. starts: how many starts of the delays are tried.
    """

    inverse = True

    def __init__(
        self, features: int = 16, points: int = 40, windows: int = 10, spread: float = 2.0,
        inverse_windows: int = 20, inverse_features: int = 8, inverse_points: int = 12,
        weights: tuple[float, ...] | list[float] = (1e-2, 1.0, 1e2, 1e4, 1e6), iterations: int = 30, starts: int = 3,
    ) -> None:  # fmt: skip
        super().__init__(windows, points)
        if min(inverse_windows, inverse_features, iterations, starts) < 1 or inverse_points < 2:
            raise ValueError("inverse_windows, inverse_features, iterations and starts must be at least 1, points 2")
        if not weights or not all(float(w) > 0 for w in weights):
            raise ValueError(f"weights={weights} must be positive numbers, one for each stage")
        self.features, self.spread = int(features), float(spread)
        self.inverse_shape = (int(inverse_windows), int(inverse_features), int(inverse_points))
        self.weights, self.iterations, self.starts = [float(w) for w in weights], int(iterations), int(starts)
        RandomFeatures(self.features, self.spread)

    def basis(self) -> Basis:
        return RandomFeatures(self.features, self.spread, self.seed)

    def begin(self, problem: DDE, observations: Observations | None = None, seed: int = 0) -> None:
        super().begin(problem, observations, seed)
        self.cascade: Cascade | None = None
        if problem.slots:
            assert observations is not None
            windows, features, points = self.inverse_shape
            basis = RandomFeatures(features, self.spread, seed)
            self.cascade = Cascade(
                problem, observations, basis, windows, points, self.weights, self.iterations, self.starts
            )

    @property
    def blocks(self) -> int:
        return len(self.weights) * self.starts if self.cascade is not None else 1

    def advance(self) -> dict[str, float]:
        return super().advance() if self.cascade is None else self.cascade.advance()

    def fit(self) -> Fit:
        assert self.observations is not None and self.cascade is not None
        values, pieces, reason = self.cascade.best()
        solution = Solution(self.problem, pieces, self.problem.at(values).past)
        return conclude(self.problem, self.observations, values, solution, reason)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() if self.cascade is None else self.cascade.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.cascade is None:
            super().load_state_dict(state)
        else:
            self.cascade.load_state_dict(state)


def window_edges(instance: Instance, windows: int) -> Tensor:
    """Edges of windows through the breaking points, none longer than a delay or the interval over ``windows``."""
    start, end = instance.problem.span
    lags = [lag.detach() for lag in instance.lags if isinstance(lag, Tensor)]
    shortest = min([float(lag) for lag in lags], default=math.inf)
    longest = min((end - start) / windows, shortest)
    if (end - start) / longest > 5000:
        raise ConfigError(f"a delay of {shortest:g} makes {(end - start) / longest:.0f} windows; choose Steps")
    return refine(breaking_points(start, end, lags), longest).detach()


def solve_by_windows(instance: Instance, basis: Basis, windows: int, points: int) -> tuple[Solution, float]:
    """The solution, and the largest residual at the collocation points relative to the largest slope."""
    problem = instance.problem
    edges = window_edges(instance, windows)
    n, count = problem.size, len(edges) - 1
    coefficients = torch.zeros(count, n, basis.size, dtype=torch.float64)
    pieces = Pieces(basis, edges, coefficients)
    left, worst = instance.initial.detach(), 0.0
    x = chebyshev_roots(points)
    # The constant function with the start value, as first guess.
    ones = torch.linalg.lstsq(basis.at(x)[0].t(), torch.ones(points, 1, dtype=torch.float64), driver="gelsd").solution[
        :, 0
    ]
    for w in range(count):
        t = edges[w] + (edges[w + 1] - edges[w]) * (x + 1) / 2
        found, error = _window(instance, pieces, w, t, left, left[:, None] * ones)
        coefficients[w] = found
        worst = max(worst, error)
        left = found @ pieces.features(edges[w + 1 : w + 2], torch.tensor([w]))[0][:, 0]
        if not bool(torch.isfinite(left).all()):
            raise ValueError(f"the solution is not finite at t = {float(edges[w + 1]):g}")
    return Solution(problem, pieces, instance.past), worst


def _window(instance: Instance, pieces: Pieces, w: int, t: Tensor, left: Tensor, guess: Tensor) -> tuple[Tensor, float]:
    """Coefficients (n, size) of one window, and its relative residual."""
    n, size, count = instance.problem.size, pieces.basis.size, len(t)
    here = torch.full((count,), w)
    phi, dphi = pieces.features(t, here)
    phi_left = pieces.features(pieces.edges[w : w + 1], torch.tensor([w]))[0][:, 0]
    c, error = guess, math.inf
    for _ in range(40):
        reads = _WindowReads(instance, pieces, w, c)
        y = (c @ phi).detach().requires_grad_()
        reads.t, reads.y = t, y
        f = instance.derivative(t, y, reads)
        gap = EDGE * (c @ phi_left - left)
        r = c @ dphi - f.detach()
        error, before = float(r.abs().max() / (1e-300 + max(float(f.detach().abs().max()), 1.0))), error
        jacobian = torch.zeros(n, count, n, size, dtype=torch.float64)
        leaves = [y, *(leaf for leaf, _, _ in reads.own)]
        for i in range(n):
            jacobian[i, :, i] = dphi.t()
            if f.requires_grad:
                grads = torch.autograd.grad(f[i].sum(), leaves, retain_graph=True, allow_unused=True)
                _subtract(jacobian[i], grads[0], phi, torch.arange(count))
                for grad, (_, features, rows) in zip(grads[1:], reads.own):
                    _subtract(jacobian[i], grad, features, rows)
        edge = torch.einsum("ij,k->ijk", EDGE * torch.eye(n, dtype=torch.float64), phi_left).reshape(n, n * size)
        system = torch.cat([jacobian.reshape(n * count, n * size), edge]).numpy()
        right = -torch.cat([r.reshape(-1), gap]).numpy()
        step = torch.from_numpy(np.linalg.lstsq(system, right, rcond=1e-15)[0]).reshape(n, size)
        c = c + step
        moved = float((step @ phi).abs().max()) / (1 + float(y.detach().abs().max()))
        if moved < 1e-14 or (moved < 1e-10 and error >= before):
            break
    return c.detach(), error


def _subtract(rows: Tensor, grad: Tensor | None, features: Tensor, where: Tensor) -> None:
    """Take ``dF/dy phi`` off the rows (N, n, size) of one equation; ``grad`` (n, M), ``features`` (size, M)."""
    if grad is not None:
        rows[where] -= torch.einsum("jm,km->mjk", grad, features)


class _WindowReads:
    """Delayed values in one window: from the history, from earlier windows, and from the window itself."""

    def __init__(self, instance: Instance, pieces: Pieces, w: int, c: Tensor) -> None:
        self.instance, self.pieces, self.w, self.c = instance, pieces, w, c
        self.lags = instance.lags
        self.own: list[tuple[Tensor, Tensor, Tensor]] = []  # leaf (n, M), features (size, M), rows (M,)
        self.t = self.y = pieces.edges

    def __call__(self, i: int, derivative: bool = False) -> Tensor:
        lag = self.lags[i]
        s = self.t - (lag if isinstance(lag, Tensor) else lag(self.t, self.y))
        start, begin = float(self.pieces.edges[0]), float(self.pieces.edges[self.w])
        place = s.detach()
        found = torch.zeros(len(self.c), len(s), dtype=torch.float64)
        early = torch.nonzero(place < start)[:, 0]
        inner = torch.nonzero((place >= start) & (place < begin))[:, 0]
        own = torch.nonzero(place >= begin)[:, 0]
        if len(early):
            from decathlon.equations.hermite import slope_of

            past = self.instance.past
            found = found.index_copy(1, early, slope_of(past, s[early]) if derivative else past(s[early]))
        if len(inner):
            found = found.index_copy(1, inner, self.pieces(s[inner], derivative))
        if len(own):
            here = torch.full((len(own),), self.w)
            features = self.pieces.features(s[own], here)[1 if derivative else 0]
            leaf = torch.zeros(len(self.c), len(own), dtype=torch.float64, requires_grad=True)
            self.own.append((leaf, features.detach(), own))
            found = found.index_copy(1, own, self.c @ features + leaf)
        return found
