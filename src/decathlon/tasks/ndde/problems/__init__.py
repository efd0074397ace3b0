"""The paper's problems, further standard ones, and reference values for them.

Each is a function of its delays and parameters that returns a ``DDE``; one of your own is a function like these.
"""

from decathlon.tasks.ndde.problems.paper import linear, logistic, oscillating, quad, quad_modulated, quad_sum, sir
from decathlon.tasks.ndde.problems.references import REFERENCES, Reference
from decathlon.tasks.ndde.problems.standard import (
    dde23_ex1,
    hutchinson,
    ikeda,
    mackey_glass,
    neutral,
    pantograph,
    state_dep,
    stiff,
    wavy,
)

__all__ = [
    "REFERENCES",
    "Reference",
    "dde23_ex1",
    "hutchinson",
    "ikeda",
    "linear",
    "logistic",
    "mackey_glass",
    "neutral",
    "oscillating",
    "pantograph",
    "quad",
    "quad_modulated",
    "quad_sum",
    "sir",
    "state_dep",
    "stiff",
    "wavy",
]
