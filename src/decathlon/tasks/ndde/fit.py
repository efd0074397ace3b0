"""Estimate the unknowns of a problem from observations, in one call."""

from typing import Any

from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.tasks.ndde.observations import observe
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solvers.base import Solver
from decathlon.tasks.ndde.verdict import Fit

METHODS = {"shooting": "Shooting", "windows": "Windows", "pinn": "Pinn"}


def fit(problem: DDE, times: Any, values: Any, method: str | Solver = "shooting", seed: int = 0, **options: Any) -> Fit:
    """Find the ``Unknown`` delays, parameters and history of a problem.

    Args:
        times: (N,). values: (n, N), for one unknown (N,); NaN where nothing was observed.
        method: ``shooting`` (least squares over the method of steps), ``windows`` (all windows and unknowns at once,
            for starts that shooting does not come back from), ``pinn`` (networks), or a solver.
        seed: of what the method draws.
        options: of the method, such as ``starts=20``.

    Raises:
        ValueError, ConfigError: in one line, what is wrong with the problem or the observations.
    """
    if not problem.slots:
        raise ValueError("nothing in the problem is unknown: make a delay or a parameter Unknown(start)")
    if isinstance(method, Solver):
        if options:
            raise ConfigError(f"the solver is made already: it takes no {', '.join(options)} here")
        solver = method
    elif method in METHODS:
        place = f"decathlon.tasks.ndde.solvers.{METHODS[method]}"
        solver = build({"class": place, "name": method, **options}, called="method")
    else:
        raise ConfigError(f"method={method} is unknown; choose {', '.join(METHODS)}, or give a solver")
    solver.begin(problem, observe(problem, times, values), seed)
    for _ in range(solver.blocks):
        solver.advance()
    return solver.fit()
