"""What a job of task=ndde has found: estimates, and the solution as a curve that needs neither problem nor solver."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from decathlon import trained
from decathlon.tasks.ndde.solution import Solution

INTERVALS = 4000


class Found:
    """The result of a job.

    Attributes:
        verdict: ``ok``, or why it failed. estimates, standard_errors: of the unknowns; empty for a forward problem.
        names: of the components. span: of the curve. error: largest difference of the curve from the solver's solution
            in the middle of its 4,000 intervals; nan where nothing was solved.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.verdict: str = state["verdict"]
        self.estimates: dict[str, float] = dict(state["estimates"])
        self.standard_errors: dict[str, float] = dict(state["standard_errors"])
        self.names, self.error = list(state["names"]), float(state["error"])
        self.span: tuple[float, float] = (float(state["times"][0]), float(state["times"][-1]))
        values = state["values"]
        self._curve = None if values is None else CubicSpline(state["times"].numpy(), values.numpy(), axis=1)

    def __call__(self, times: Any) -> Tensor:
        """y (n, N) at times (N,) inside the span, float64; (N,) for one component.

        Raises:
            ValueError: nothing was solved, or a time is outside.
        """
        if self._curve is None:
            raise ValueError(f"there is no solution: {self.verdict}")
        t = np.asarray(torch.as_tensor(times, dtype=torch.float64).reshape(-1))
        start, end = self.span
        if not bool(((t >= start) & (t <= end)).all()):
            raise ValueError(f"times lie in [{start:g}, {end:g}]")
        found = torch.from_numpy(self._curve(t))
        return found[0] if len(self.names) == 1 else found

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with a column ``t``: a column for each component."""
        return trained.from_numbers(rows, ("t",), self._row_values)

    def _row_values(self, numbers: list[list[float]]) -> list[dict[str, Any] | str]:
        found: list[dict[str, Any] | str] = []
        for (t,) in numbers:
            if self.span[0] <= t <= self.span[1]:
                found.append(dict(zip(self.names, self([t]).reshape(-1).tolist())))
            else:
                found.append(f"t={t:g} is outside of [{self.span[0]:g}, {self.span[1]:g}]")
        return found


def curve(solution: Solution | None, span: tuple[float, float]) -> dict[str, Any]:
    """A solution on 4,001 equidistant times, and how far the cubic spline through them is from it in between."""
    times = torch.linspace(*span, INTERVALS + 1, dtype=torch.float64)
    if solution is None:
        return {"times": times, "values": None, "error": math.nan}
    with torch.no_grad():
        values = solution.rows(times).detach()
        middle = (times[1:] + times[:-1]) / 2
        between = torch.from_numpy(CubicSpline(times.numpy(), values.numpy(), axis=1)(middle.numpy()))
        error = float((between - solution.rows(middle).detach()).abs().max())
    return {"times": times, "values": values, "error": error}


def load(folder: Path, config: Mapping[str, Any]) -> Found:
    """What ``DelaySolver.export`` has written."""
    return Found(trained.state_of(folder))
