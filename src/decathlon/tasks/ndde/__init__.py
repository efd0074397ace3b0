"""Delay differential equations, forward and inverse (arXiv 2408.09202). Needs torch, NumPy and SciPy."""

from decathlon.tasks.ndde.fit import fit
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solution import Solution, solve
from decathlon.tasks.ndde.unknown import Unknown, UnknownHistory
from decathlon.tasks.ndde.verdict import Fit

__all__ = ["DDE", "Fit", "Solution", "Unknown", "UnknownHistory", "fit", "solve"]
