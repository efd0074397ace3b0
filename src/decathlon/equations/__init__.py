"""Differential equations: networks as solutions, their derivatives, samplers, classical reference solvers."""

from decathlon.equations.derivatives import Derivatives, differentiate
from decathlon.equations.networks import MLP

__all__ = ["MLP", "Derivatives", "differentiate"]
