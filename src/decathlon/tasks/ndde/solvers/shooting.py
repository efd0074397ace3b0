"""Shooting: least squares over the unknowns, with the method of steps inside."""

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares

from decathlon.randomness import numpy_generator
from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solution import Solution
from decathlon.tasks.ndde.solvers.base import Solver
from decathlon.tasks.ndde.solvers.steps import Steps
from decathlon.tasks.ndde.unknown import UnknownHistory
from decathlon.tasks.ndde.verdict import Fit, conclude, residuals_and_jacobian

HUGE = 1e6


class Shooting(Solver):
    """``scipy.optimize.least_squares`` on the distance of the solution from the observations.

    Args:
        starts: how many starts are tried: the problem's own, then others with the delays spread over the interval and
            the other unknowns drawn around their own starts. The best end wins.
        steps: of the method of steps in the search. fine_steps: in the last iterations, from the best end.
        iterations: at most, of each search.
        loss: of the residuals, as in ``least_squares``: linear, soft_l1, huber, cauchy, arctan. scale: of the residuals
            where the loss bends.
        history: ``given``, or ``constant``: an unknown history is taken for a constant.
    """

    forward, inverse = False, True

    def __init__(
        self, starts: int = 6, steps: int = 100, fine_steps: int = 1000, iterations: int = 40,
        loss: str = "linear", scale: float = 1.0, history: str = "given",
    ) -> None:  # fmt: skip
        if min(starts, steps, fine_steps, iterations) < 1:
            raise ValueError("starts, steps, fine_steps and iterations must be at least 1")
        if loss not in ("linear", "soft_l1", "huber", "cauchy", "arctan"):
            raise ValueError(f"loss={loss} is unknown; choose linear, soft_l1, huber, cauchy, arctan")
        if history not in ("given", "constant"):
            raise ValueError(f"history={history} is unknown; choose given or constant")
        self.history = history
        if not scale > 0:
            raise ValueError(f"scale={scale} must be positive")
        self.starts, self.steps, self.fine_steps = int(starts), int(steps), int(fine_steps)
        self.iterations, self.loss, self.scale = int(iterations), loss, float(scale)

    def begin(self, problem: DDE, observations: Observations | None = None, seed: int = 0) -> None:
        if self.history == "constant" and isinstance(problem.history, UnknownHistory):
            old = problem.history
            starts = old.starts[:: old.degree + 1]
            problem = problem.known(history=UnknownHistory(old.reach, 0, starts, old.size))
        super().begin(problem, observations, seed)
        self.points = self._points()
        self.best, self.best_cost, self.tried = torch.from_numpy(self.points[0].copy()), math.inf, 0

    @property
    def blocks(self) -> int:
        return len(self.points) + 1

    def advance(self) -> dict[str, float]:
        """One search from one start; after the last, the final search with fine steps from the best end."""
        assert self.observations is not None
        if self.tried < len(self.points) and 2 * self.best_cost < 1e-10 * self._energy():
            self.tried += 1  # the observations are met: no other start can do better
            return {"cost": self.best_cost}
        if self.tried < len(self.points):
            start, steps = self.points[self.tried], self.steps
        else:
            start, steps = self.best.numpy(), self.fine_steps
        fine = self.tried == len(self.points)
        found = self._search(start, (self.problem.span[1] - self.problem.span[0]) / steps, fine)
        self.tried += 1
        if found is not None and (found[1] < self.best_cost or fine):
            self.best, self.best_cost = torch.from_numpy(found[0].copy()), found[1]
        return {"cost": self.best_cost}

    def _energy(self) -> float:
        assert self.observations is not None
        return float(self.observations.values.nan_to_num().square().sum())

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        length = self.problem.span[1] - self.problem.span[0]
        low, high = [], []
        for slot in self.problem.slots:
            u = slot.unknown
            low.append(u.low if u.low is not None else (0.0 if slot.delay else -np.inf))
            high.append(u.high if u.high is not None else (length if slot.delay else np.inf))
        return np.array(low), np.array(high)

    def _points(self) -> list[np.ndarray]:
        """The problem's own start, then starts with delays in equal strata of the interval, each order drawn anew."""
        own = np.array([slot.unknown.start for slot in self.problem.slots])
        low, high = self._bounds()
        random = numpy_generator("shooting", self.seed)
        found, more = [own], self.starts - 1
        drawn = np.tile(own, (more, 1))
        for k, slot in enumerate(self.problem.slots):
            if slot.delay:
                # Quadratic: most delays are short beside the interval.
                strata = (random.permutation(more) + random.uniform(size=more)) / max(more, 1)
                drawn[:, k] = low[k] + (high[k] - low[k]) * strata**2
            else:
                drawn[:, k] = own[k] + max(abs(own[k]), 0.5) * random.normal(size=more)
        return found + [np.clip(row, low, high) for row in drawn]

    def _search(self, start: np.ndarray, step: float, fine: bool) -> tuple[np.ndarray, float] | None:
        """The end of a search and its cost; None if the solution cannot even be had at the start."""
        problem, observations = self.problem, self.observations
        assert observations is not None
        low, high = self._bounds()
        # Off the bounds; a delay by a hundredth of the interval: next to 0 nothing tells the equation from one without.
        length = self.problem.span[1] - self.problem.span[0]
        slots = problem.slots
        margin = np.array([0.01 * length if slot.delay else 1e-10 * (1 + abs(x)) for slot, x in zip(slots, start)])
        room = np.where(np.isfinite(high - low), (high - low) / 4, np.inf)
        margin = np.minimum(margin, room) if not fine else np.full(len(start), 1e-12)
        inside = np.clip(start, low + margin, high - margin)
        memory: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

        def both(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            key = x.tobytes()
            if key not in memory:
                memory.clear()
                memory[key] = residuals_and_jacobian(problem, observations, torch.from_numpy(x.copy()), step)
            return memory[key]

        def residuals(x: np.ndarray) -> np.ndarray:
            try:
                found = both(x)[0]
            except ValueError:
                return np.full(observations.count, HUGE)
            return np.where(np.isfinite(found), np.clip(found, -HUGE, HUGE), HUGE)

        def jacobian(x: np.ndarray) -> np.ndarray:
            try:
                return np.nan_to_num(both(x)[1], nan=0.0, posinf=HUGE, neginf=-HUGE)
            except ValueError:
                return np.zeros((observations.count, len(x)))

        if not (residuals(inside) < HUGE).all():
            return None
        tight = 1e-14 if fine else 1e-7
        result = least_squares(
            residuals, inside, jacobian, bounds=(low, high), x_scale="jac", xtol=tight, ftol=tight, gtol=tight,
            max_nfev=self.iterations, loss=self.loss, f_scale=self.scale,
        )  # fmt: skip
        return np.asarray(result.x), float(result.cost)

    def fit(self) -> Fit:
        assert self.observations is not None
        reason = "" if math.isfinite(self.best_cost) else "no start has a finite solution"
        step = (self.problem.span[1] - self.problem.span[0]) / self.fine_steps
        return conclude(self.problem, self.observations, self.best, None, reason, step)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_cost": self.best_cost, "tried": self.tried}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_cost, self.tried = state["best"], float(state["best_cost"]), int(state["tried"])


class Classical(Solver):
    """The method of steps for known problems, shooting with it for unknown ones.

    Args:
        tolerance: of ``Steps``. starts: of ``Shooting``.
    """

    forward, inverse = True, True

    def __init__(self, tolerance: float = 1e-9, starts: int = 6) -> None:
        self.known, self.search = Steps(tolerance=tolerance), Shooting(starts=starts)
        self.chosen: Solver = self.known

    def begin(self, problem: DDE, observations: Observations | None = None, seed: int = 0) -> None:
        super().begin(problem, observations, seed)
        self.chosen = self.search if problem.slots else self.known
        self.chosen.begin(problem, observations, seed)

    @property
    def blocks(self) -> int:
        return self.chosen.blocks

    def advance(self) -> dict[str, float]:
        return self.chosen.advance()

    def solution(self) -> Solution:
        return self.chosen.solution()

    def fit(self) -> Fit:
        return self.chosen.fit()

    def state_dict(self) -> dict[str, Any]:
        return self.chosen.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chosen.load_state_dict(state)
