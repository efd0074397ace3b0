"""Estimate the unknowns of a problem from observations, in one call."""

from typing import Any

from decathlon.errors import ConfigError
from decathlon.tasks.ndde.observations import observe
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solvers.shooting import Shooting
from decathlon.tasks.ndde.verdict import Fit


def fit(problem: DDE, times: Any, values: Any, method: Any = None, seed: int = 0, **options: Any) -> Fit:
    """Find the ``Unknown`` delays, parameters and history of a problem.

    Args:
        times: (N,). values: (n, N), for one unknown (N,); NaN where nothing was observed.
        method: ``"shooting"`` (the default: least squares over the method of steps), ``"windows"``, ``"pinn"``, or a
            solver of ``decathlon.tasks.ndde.solvers``.
        seed: of what the method draws.
        options: of the method, such as ``starts=20``.

    Raises:
        ValueError, ConfigError: in one line, what is wrong with the problem or the observations.
    """
    if not problem.slots:
        raise ValueError("nothing in the problem is unknown: make a delay or a parameter Unknown(start)")
    solver = method if not (method is None or isinstance(method, str)) else _named(method or "shooting", options)
    solver.begin(problem, observe(problem, times, values), seed)
    for _ in range(solver.blocks):
        solver.advance()
    return solver.fit()


def _named(name: str, options: dict[str, Any]) -> Any:
    from decathlon.build import build

    places = {"shooting": f"{Shooting.__module__}.Shooting"}
    if name not in places:
        raise ConfigError(f"method={name} is unknown; choose {', '.join(places)}")
    return build({"class": places[name], "name": name, **options}, called="method")
