"""The problems of the paper: A to I."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.ndde.problem import DDE

FOUR = (0.2, 0.3, 0.4, 0.5)


def linear(tau: Any = 1.0, end: float = 10.0) -> DDE:
    """A and C: ``y' = -y(t - tau)``, 1 before 0."""

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return -delayed(0)

    def exact(t: Tensor) -> Tensor:
        """``1 + sum_k (-1)^k (t - (k - 1) tau)^k / k!`` over all k with (k - 1) tau <= t."""
        total = torch.ones_like(t)
        for k in range(1, math.floor(end / float(tau)) + 2):
            total = total + (-1) ** k * (t - (k - 1) * tau).clamp(min=0) ** k / float(math.factorial(k))
        return total

    return DDE(rhs, [tau], lambda t: torch.ones_like(t), (0.0, end), exact=exact)


def oscillating(tau: Any = 0.0625 * math.pi, k: Any = 0.1, end: float = 10.0) -> DDE:
    """B: ``y' = k y - pi/(2 tau) e^(k tau) y(t - tau)``, whose history ``e^(k t) sin(pi t/(2 tau))`` solves it."""

    def rhs(t: Tensor, y: Tensor, delayed: Any, p: SimpleNamespace) -> Tensor:
        return p.k * y - math.pi / (2 * tau) * torch.exp(p.k * tau) * delayed(0)

    def history(t: Tensor, p: SimpleNamespace) -> Tensor:
        return torch.exp(p.k * t) * torch.sin(math.pi * t / (2 * tau))

    def exact(t: Tensor) -> Tensor:
        return torch.exp(k * t) * torch.sin(math.pi * t / (2 * tau))

    return DDE(rhs, [tau], history, (0.0, end), {"k": k}, exact=exact)


def logistic(tau: Any = 0.5, a: Any = 0.6, b: Any = 0.006, end: float = 20.0) -> DDE:
    """D: ``y' = a y - b y y(t - tau)``, 1 before 0; a/b is the capacity."""

    def rhs(t: Tensor, y: Tensor, delayed: Any, p: SimpleNamespace) -> Tensor:
        return p.a * y - p.b * y * delayed(0)

    return DDE(rhs, [tau], lambda t: torch.ones_like(t), (0.0, end), {"a": a, "b": b})


def quad(tau: Sequence[Any] = FOUR, end: float = 1.0) -> DDE:
    """E and H: three unknowns, four delays, a product in the second equation; 1 before 0."""

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return torch.stack([delayed(0, 0), delayed(1, 0) * delayed(2, 1), delayed(3, 1)])

    return DDE(rhs, list(tau), [1.0, 1.0, 1.0], (0.0, end))


def quad_sum(tau: Sequence[Any] = FOUR, end: float = 1.0) -> DDE:
    """F: as ``quad`` with a sum in place of the product, which is what the preprint's code solves."""

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return torch.stack([delayed(0, 0), delayed(1, 0) + delayed(2, 1), delayed(3, 1)])

    return DDE(rhs, list(tau), [1.0, 1.0, 1.0], (0.0, end))


def quad_modulated(tau: Sequence[Any] = (2.0, 3.0, 4.0, 5.0), end: float = 10.0) -> DDE:
    """G: as ``quad_sum`` with coefficients that oscillate in time."""

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        first = torch.sin(5 * t) * delayed(0, 0)
        second = torch.sin(4 * t) * delayed(1, 0) + torch.cos(3 * t) * delayed(2, 1)
        return torch.stack([first, second, torch.cos(2 * t) * delayed(3, 1)])

    return DDE(rhs, list(tau), [1.0, 1.0, 1.0], (0.0, end))


def sir(tau: Sequence[Any] = (4.0, 2.0), alpha: Any = 0.3, beta: Any = 0.7, gamma: Any = 0.1, end: float = 10.0) -> DDE:
    """I: an epidemic with delayed infection (tau2) and loss of immunity (tau1); the sum of all stays 6."""

    def rhs(t: Tensor, y: Tensor, delayed: Any, p: SimpleNamespace) -> Tensor:
        infected = y[1]
        infection, loss = p.beta * y[0] * delayed(1, 1), p.gamma * delayed(0, 1)
        recovery = p.alpha * infected
        return torch.stack([loss - infection, infection - recovery, recovery - loss])

    parameters = {"alpha": alpha, "beta": beta, "gamma": gamma}
    return DDE(rhs, list(tau), [5.0, 1.0, 0.0], (0.0, end), parameters, names=["S", "I", "R"])
