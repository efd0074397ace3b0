"""Differential equations: networks as solutions, their derivatives, samplers, classical reference solvers."""

from decathlon.equations.derivatives import Derivatives, differentiate
from decathlon.equations.jacobian import jacobian
from decathlon.equations.networks import MLP, Transformed

__all__ = ["MLP", "Derivatives", "Transformed", "differentiate", "jacobian"]
