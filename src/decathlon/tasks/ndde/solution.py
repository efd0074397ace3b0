"""Solutions as functions of time, and the method of steps that finds them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from decathlon.equations.hermite import PiecewiseHermite
from decathlon.equations.steps import integrate
from decathlon.tasks.ndde.instance import Instance
from decathlon.tasks.ndde.problem import DDE

Curve = Callable[[Tensor], Tensor]
MOST_STEPS = 200_000


class Solution:
    """y as a function of time: ``solution(t)``.

    A problem of one unknown gives the shape of ``t``, a system (n, *shape of t). Times may be numbers, NumPy arrays or
    tensors on any device; the result is a float64 tensor on the device of ``t``.

    Args:
        problem: what it solves. values: (N,) -> (n, N), from the start of the interval to its end.
        past: y before the start, (N,) -> (n, N).
    """

    def __init__(self, problem: DDE, values: Curve, past: Curve) -> None:
        self.problem, self.values, self.past = problem, values, past

    def rows(self, t: Tensor) -> Tensor:
        """Values (n, N) at times (N,), float64."""
        start, end = self.problem.span
        margin = 1e-9 * (end - start)
        if not bool(((t <= end + margin) & ~torch.isnan(t)).all()):
            raise ValueError(f"the solution ends at t = {end:g}; it was asked at {float(t.max()):g}")
        early = t < start
        if not bool(early.any()):
            return self.values(t)
        if bool(early.all()):
            return self.past(t)
        found = torch.zeros(self.problem.size, len(t), dtype=torch.float64)
        before, after = torch.nonzero(early)[:, 0], torch.nonzero(~early)[:, 0]
        return found.index_copy(1, before, self.past(t[before])).index_copy(1, after, self.values(t[after]))

    def __call__(self, t: Any) -> Tensor:
        times = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
        found = self.rows(times.to("cpu", torch.float64).reshape(-1))
        shape = times.shape if self.problem.scalar else (self.problem.size, *times.shape)
        return found.reshape(shape).to(times.device)


def solve(problem: DDE, step: float | None = None, tolerance: float = 1e-9) -> Solution:
    """Solve a problem without unknowns by the method of steps.

    The result is differentiable by every tensor in the problem that requires a gradient, the delays among them.

    Args:
        step: the longest step. None: it is halved until the solution changes by less than ``tolerance``.
        tolerance: estimated largest error, relative to the largest value of each unknown (to 1 where that is smaller).

    Raises:
        ValueError: something in the problem is unknown; the solution is not finite; the tolerance is not reached.
    """
    instance = problem.instance()
    if step is not None:
        if not 0 < step <= problem.span[1] - problem.span[0]:
            raise ValueError(f"step={step} must be above 0 and at most the interval's length")
        return _solution(problem, instance, float(step))
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} must be positive")
    return _solution(problem, instance, fitting_step(instance, tolerance))


def fitting_step(instance: Instance, tolerance: float) -> float:
    """The longest step of those tried whose solution has an estimated error below ``tolerance``."""
    start, end = instance.problem.span
    times = torch.linspace(start, end, 997, dtype=torch.float64)
    before: Tensor | None = None
    count, reason = 64, ""
    while count <= MOST_STEPS:
        step = (end - start) / count
        try:
            with torch.no_grad():
                values = march(instance, step)(times)
        except ValueError as error:
            if "not finite" not in str(error):
                raise
            before, reason = None, str(error)
        else:
            if before is not None:
                scale = values.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
                # A fourth-order method: the finer solution has a fifteenth of the difference.
                if float(((values - before).abs() / scale).max()) / 15 < tolerance:
                    return step
            before = values
        count *= 2
    raise ValueError(reason or f"the tolerance {tolerance:g} is not reached with {MOST_STEPS} steps")


def march(instance: Instance, step: float) -> PiecewiseHermite:
    """The method of steps with steps of at most ``step``."""
    problem = instance.problem
    return integrate(
        instance.derivative, instance.lags, instance.past, instance.initial, problem.span, step, problem.neutral
    )


def _solution(problem: DDE, instance: Instance, step: float) -> Solution:
    found = march(instance, step)
    return Solution(problem, found, instance.past)


def uniform_times(problem: DDE, count: int = 1001) -> Tensor:
    """Equidistant times over the interval, both ends included."""
    return torch.linspace(*problem.span, count, dtype=torch.float64)


def relative_error(found: Tensor, exact: Tensor) -> Tensor:
    """``||found - exact|| / ||exact||`` of each unknown: (n, N), (n, N) -> (n,)."""
    norm = exact.norm(dim=1)
    return (found - exact).norm(dim=1) / torch.where(norm > 0, norm, torch.full_like(norm, math.nan))
