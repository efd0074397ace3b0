"""What a fit found, how certain it is, and whether it can be believed."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solution import Solution, march, uniform_times

UNIDENTIFIABLE = 1e-7
"""Ratio of extreme singular values of the scaled Jacobian below which a direction is not determined."""

DISAGREEMENT = 0.2
"""Relative distance of a curve from the solution for its estimates beyond which a fit has failed."""


@dataclass
class Fit:
    """The result of an inverse problem.

    Attributes:
        problem: with the estimates in place of its unknowns; None where they make no valid problem.
        estimates: of every unknown by name. delays: all delays, the known ones too (a function for one that varies).
        standard_errors: of every unknown by name, from the Jacobian of the solution by the unknowns and the residuals;
            NaN where they cannot be had (as many unknowns as observations, not identifiable, failed).
        solution: as a function of time. residuals: observed less found, (n, N).
        verdict: ``ok``, or ``failed: ...`` with the reason.
    """

    problem: DDE | None
    estimates: dict[str, float]
    delays: list[object]
    parameters: dict[str, float]
    standard_errors: dict[str, float]
    solution: Solution
    residuals: Tensor
    verdict: str

    @property
    def ok(self) -> bool:
        """Whether the verdict is ``ok``."""
        return self.verdict == "ok"


def conclude(
    problem: DDE,
    observations: Observations,
    values: Tensor,
    solution: Solution | None,
    reason: str = "",
    step: float | None = None,
) -> Fit:
    """The fit for the values (m,) of a problem's unknowns.

    Args:
        solution: what the solver found; None: that of the method of steps with the values.
        reason: why the solver itself has failed, if it has.
        step: of the method of steps, for the solution and its Jacobian.
    """
    slots = problem.slots
    estimates = {slot.name: float(value) for slot, value in zip(slots, values)}
    reason = reason or window_fault(problem, values)
    settled: DDE | None = None
    errors = {name: math.nan for name in estimates}
    instance = problem.at(values)
    if not reason:
        try:
            step = step or (problem.span[1] - problem.span[0]) / 1000
            curve = Solution(problem, march(instance, step), instance.past)
            solution, given = solution or curve, solution
            found, reason = standard_errors(problem, observations, values, step)
            errors = dict(zip(estimates, found))
            settled = _settled(problem, values)
            reason = reason or ("" if given is None else _disagreement(given, curve))
        except ValueError as error:
            reason = str(error)
    if solution is None:
        nothing = torch.full((problem.size, 1), math.nan, dtype=torch.float64)
        solution = Solution(problem, lambda t: nothing.expand(-1, len(t)), instance.past)
    residuals = observations.values - solution.rows(observations.times).detach()
    by_name = dict(zip(problem.delay_names, problem.delays))
    delays = [estimates.get(name, delay if callable(delay) else float(delay) if name not in estimates else None)
              for name, delay in by_name.items()]  # fmt: skip
    parameters = {name: estimates[name] if name in estimates else float(p) for name, p in problem.parameters.items()}
    return Fit(
        settled, estimates, delays, parameters, errors, solution, residuals, f"failed: {reason}" if reason else "ok"
    )


def _disagreement(found: Solution, curve: Solution) -> str:
    """Why a solver's curve cannot be believed: it is not the solution for its own estimates; else empty."""
    times = uniform_times(found.problem, 201)
    with torch.no_grad():
        exact = curve.rows(times)
        distance = float((found.rows(times) - exact).norm() / exact.norm().clamp(min=1e-300))
    if distance <= DISAGREEMENT:
        return ""
    return f"the curve is not the solution for the estimates (relative distance {distance:.2g}): not converged"


def window_fault(problem: DDE, values: Tensor) -> str:
    """Why the values are no estimates: not finite, or a delay outside of (0, length of the interval); else empty."""
    length = problem.span[1] - problem.span[0]
    for slot, value in zip(problem.slots, values.tolist()):
        if not math.isfinite(value):
            return f"{slot.name} is not finite"
        if slot.delay and not 0 < value < length:
            return f"{slot.name} = {value:.4g} has left the window (0, {length:g})"
        if slot.delay and (value < 1e-6 * length or value > (1 - 1e-6) * length):
            return f"{slot.name} = {value:.4g} lies on the edge of the window (0, {length:g})"
    return ""


def _settled(problem: DDE, values: Tensor) -> DDE:
    given = dict(zip((slot.name for slot in problem.slots), values.tolist()))
    delays = [given.get(name, delay) for name, delay in zip(problem.delay_names, problem.delays)]
    parameters = {name: given[name] for name in problem.parameters if name in given}
    instance = problem.at(values)
    history = instance.past if instance.coefficients is not None else None
    if history is not None and problem.scalar:
        past = history
        return problem.known(delays, parameters, lambda t: past(t)[0])
    return problem.known(delays, parameters, history)


def residuals_and_jacobian(
    problem: DDE, observations: Observations, values: Tensor, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Found less observed, (M,), and its derivatives by the unknowns, (M, m).

    Differences, central where both sides are allowed: the solution on a mesh that moves with the delays is smooth in
    them, so they are good to nine digits, and cheaper here than forward differentiation.
    """
    seen = observations.seen
    length = problem.span[1] - problem.span[0]

    def predicted(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            return march(problem.at(x), step)(observations.times)[seen].numpy()

    middle = predicted(values)
    columns = []
    for k, slot in enumerate(problem.slots):
        width = 1e-6 * max(abs(float(values[k])), 1e-3 * length if slot.delay else 1e-2)
        low = slot.unknown.low if slot.unknown.low is not None else (0.0 if slot.delay else -math.inf)
        high = slot.unknown.high if slot.unknown.high is not None else (length if slot.delay else math.inf)
        up, down = values.clone(), values.clone()
        up[k], down[k] = min(float(values[k]) + width, high), max(float(values[k]) - width, low)
        columns.append((predicted(up) - predicted(down)) / float(up[k] - down[k]))
    return middle - observations.values[seen].numpy(), np.stack(columns, axis=1)


def standard_errors(problem: DDE, observations: Observations, values: Tensor, step: float) -> tuple[list[float], str]:
    """Standard errors, ``sqrt(diag(s^2 (J^T J)^-1))`` with ``s^2 = RSS / (M - m)``; and a fault, if any."""
    residuals, jacobian = residuals_and_jacobian(problem, observations, values, step)
    if not (np.isfinite(residuals).all() and np.isfinite(jacobian).all()):
        return [math.nan] * len(values), "the solution or its Jacobian is not finite"
    norms = np.linalg.norm(jacobian, axis=0)
    flat = [slot.name for slot, norm in zip(problem.slots, norms) if norm == 0]
    if flat:
        return [math.nan] * len(values), f"not identifiable: no observation depends on {', '.join(flat)}"
    _, singular, right = np.linalg.svd(jacobian / norms, full_matrices=False)
    if singular[-1] < UNIDENTIFIABLE * singular[0]:
        worst = problem.slots[int(np.abs(right[-1]).argmax())].name
        return [math.nan] * len(values), f"not identifiable: the observations do not determine {worst}"
    free = len(residuals) - len(values)
    if free == 0:
        return [math.nan] * len(values), ""
    variance = float(residuals @ residuals) / free
    inverse = (right.T / singular**2) @ right
    return [math.sqrt(variance * inverse[k, k]) / float(norms[k]) for k in range(len(values))], ""
