"""Values that the solutions of the problems are known to have.

For the paper's problems and the standard ones, from converged solutions of fourth-order and exact methods; to the
digits given.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reference:
    """The solution of ``problem(**options)`` at a time: one value for each unknown, right to ``digits`` decimals."""

    problem: str
    options: dict[str, Any]
    time: float
    values: tuple[float, ...]
    digits: int


def _many(problem: str, options: dict[str, Any], digits: int, values: dict[float, Any]) -> list[Reference]:
    rows = {time: value if isinstance(value, tuple) else (value,) for time, value in values.items()}
    return [Reference(problem, options, time, value, digits) for time, value in rows.items()]


REFERENCES: list[Reference] = [
    *_many("logistic", {}, 7, {1.0: 1.8103260}),
    *_many("logistic", {}, 4, {5.75: 25.5493266, 10.5: 92.5322727, 15.25: 99.9140306, 20.0: 99.9991755}),
    *_many("quad", {}, 8, {1.0: (2.35706933, 2.55680398, 2.12652500)}),
    *_many("quad", {"tau": (0.1, 0.2, 0.3, 0.4)}, 8, {1.0: (2.50100753, 2.86819978, 2.19669902)}),
    *_many("quad", {"tau": (0.6, 0.5, 0.4, 0.3)}, 8, {1.0: (2.08, 2.36138275, 2.2511)}),
    *_many("quad_sum", {}, 8, {1.0: (2.35706933, 3.63334175, 2.25166667)}),
    *_many(
        "quad_modulated", {}, 8,
        {2.5: (0.95496044, 1.77243454, 0.52053786), 10.0: (1.38394014, 1.73159924, 1.68818537)},
    ),
    *_many("quad_modulated", {"tau": (0.2, 0.3, 0.4, 0.5)}, 8, {10.0: (0.41315861, 0.21170853, 0.83299752)}),
    *_many(
        "sir", {}, 7,
        {
            1.0: (2.5548429, 2.9031919, 0.5419652), 5.5: (0.1260110, 2.0450002, 3.8289888),
            10.0: (0.1920365, 1.1591206, 4.6488429),
        },
    ),
    *_many("hutchinson", {"r": 0.5}, 7, {10.0: 1.0062571}),
    *_many("hutchinson", {"r": 1.4}, 6, {10.0: 0.870405}),
    *_many("hutchinson", {"r": 2.0}, 5, {10.0: 0.86757}),
    *_many("mackey_glass", {"tau": 2.0}, 8, {25.0: 0.99983356, 50.0: 1.00000004}),
    *_many("mackey_glass", {"tau": 8.0}, 7, {25.0: 1.1624682, 50.0: 1.1884049}),
    *_many("mackey_glass", {"tau": 17.0}, 7, {25.0: 0.8766913, 50.0: 1.0609544}),
    *_many("ikeda", {}, 6, {5.0: 2.648556, 10.0: 0.372321, 20.0: 0.598083}),
    *_many("dde23_ex1", {}, 6, {5.0: (19.175, 176.422578, 190.344202)}),
]  # fmt: skip
"""Those with closed forms (linear, oscillating, neutral, state_dep, stiff, pantograph) have them as ``exact``."""
