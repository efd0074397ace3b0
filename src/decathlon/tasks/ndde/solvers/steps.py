"""The method of steps as a solver."""

from typing import Any

from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solution import Solution, fitting_step, solve
from decathlon.tasks.ndde.solvers.base import Solver


class Steps(Solver):
    """Runge-Kutta of order four with cubic Hermite dense output, on a mesh through the breaking points.

    Args:
        steps: over the interval, at least; null: as many as ``tolerance`` takes.
        tolerance: estimated largest error, relative to the size of each unknown.
    """

    def __init__(self, steps: int | None = None, tolerance: float = 1e-9) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        if not tolerance > 0:
            raise ValueError(f"tolerance={tolerance} must be positive")
        self.steps, self.tolerance = steps, float(tolerance)

    def begin(self, problem: DDE, observations: Observations | None = None, seed: int = 0) -> None:
        super().begin(problem, observations, seed)
        self.step: float | None = None
        self.result: Solution | None = None

    def advance(self) -> dict[str, float]:
        start, end = self.problem.span
        if self.steps is not None:
            self.step = (end - start) / self.steps
        else:
            self.step = fitting_step(self.problem.instance(), self.tolerance)
        self.result = solve(self.problem, self.step)
        return {"step": self.step}

    def solution(self) -> Solution:
        if self.result is None:
            assert self.step is not None
            self.result = solve(self.problem, self.step)
        return self.result

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
