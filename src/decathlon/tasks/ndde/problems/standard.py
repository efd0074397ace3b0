"""Standard problems that are not in the paper: chaos, neutral, state-dependent, stiff, vanishing delay."""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.ndde.problem import DDE


def hutchinson(r: Any = 1.4, tau: Any = 1.0, end: float = 30.0) -> DDE:
    """``y' = r y (1 - y(t - tau))``, 0.1 before 0: monotone, damped, or a limit cycle beyond r tau = pi/2."""

    def rhs(t: Tensor, y: Tensor, delayed: Any, p: SimpleNamespace) -> Tensor:
        return p.r * y * (1 - delayed(0))

    return DDE(rhs, [tau], 0.1, (0.0, end), {"r": r})


def mackey_glass(tau: Any = 17.0, beta: Any = 0.2, gamma: Any = 0.1, end: float = 50.0) -> DDE:
    """``y' = beta y(t - tau)/(1 + y(t - tau)^10) - gamma y``, 1.2 before 0: fixed point, cycle, chaos as tau grows."""

    def rhs(t: Tensor, y: Tensor, delayed: Any, p: SimpleNamespace) -> Tensor:
        past = delayed(0)
        return p.beta * past / (1 + past**10) - p.gamma * y

    return DDE(rhs, [tau], 1.2, (0.0, end), {"beta": beta, "gamma": gamma})


def ikeda(tau: Any = 2.0, mu: Any = 5.0, end: float = 20.0) -> DDE:
    """``y' = -y + mu sin(y(t - tau))``, 0.1 before 0."""

    def rhs(t: Tensor, y: Tensor, delayed: Any, p: SimpleNamespace) -> Tensor:
        return -y + p.mu * torch.sin(delayed(0))

    return DDE(rhs, [tau], 0.1, (0.0, end), {"mu": mu})


def dde23_ex1(end: float = 5.0) -> DDE:
    """Example 1 of dde23 (Wille and Baker): two delays, growth; 1 before 0."""

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return torch.stack([delayed(0, 0), delayed(0, 0) + delayed(1, 1), y[1]])

    return DDE(rhs, [1.0, 0.2], [1.0, 1.0, 1.0], (0.0, end))


def neutral() -> DDE:
    """``y' = y + y(t - 1) - y'(t - 1)/4`` on [0, 2], -t before 0: the slope jumps at every breaking point."""

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return y + delayed(0) - delayed.slope(0) / 4

    def exact(t: Tensor) -> Tensor:
        first = -0.25 + t + torch.exp(t) / 4
        later = torch.exp(t - 1)
        second = 0.5 - t + torch.exp(t) / 4 + 1.25 * later + 0.1875 * (t - 1) * later
        return torch.where(t <= 0, -t, torch.where(t <= 1, first, second))

    return DDE(rhs, [1.0], lambda t: -t, (0.0, 2.0), exact=exact)


def state_dep() -> DDE:
    """``y' = y(y(t))`` from t = 2 on, y = 1/2 before and y(2) = 1 (Neves): the delay depends on the state, y jumps."""
    corner = 4 + 2 * math.log(2)

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return delayed(0)

    def exact(t: Tensor) -> Tensor:
        middle = 2 * torch.exp(t / 2 - 2)
        last = 4 - 2 * torch.log((1 + corner - t).clamp(min=1e-3))
        later = torch.where(t <= corner, middle, last)
        return torch.where(t < 2, torch.full_like(t, 0.5), torch.where(t <= 4, t / 2, later))

    return DDE(rhs, [lambda t, y: t - y], 0.5, (2.0, corner + 0.5), initial=1.0, exact=exact)


def stiff(rate: float = 1000.0) -> DDE:
    """``y' = -rate y + (rate - 3) e^-3 y(t - 1) + rate - (rate - 3) e^-3`` on [0, 3]; ``1 + e^(-3 t)`` solves it."""
    pull = (rate - 3) * math.exp(-3)

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return -rate * y + pull * delayed(0) + rate - pull

    def exact(t: Tensor) -> Tensor:
        return 1 + torch.exp(-3 * t)

    return DDE(rhs, [1.0], exact, (0.0, 3.0), exact=exact)


def pantograph(end: float = 10.0) -> DDE:
    """``y' = -y + y(t/2)/2``, y(0) = 1: the delay t/2 vanishes at the start, and there is no history."""

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return -y + delayed(0) / 2

    def exact(t: Tensor) -> Tensor:
        """The power series, summed by Horner's rule from the smallest term on."""
        coefficients = [1.0]
        for k in range(80):
            coefficients.append(coefficients[-1] * (2.0 ** (-k - 1) - 1) / (k + 1))
        total = torch.zeros_like(t)
        for coefficient in reversed(coefficients):
            total = total * t + coefficient
        return total

    return DDE(rhs, [lambda t, y: t / 2], None, (0.0, end), initial=1.0, exact=exact)


def wavy(tau: Any = 1.0, end: float = 10.0) -> DDE:
    """``y' = -y(t - tau)`` after a history ``1 + sin(3 t)/2``: what is unknown before the start matters for long."""

    def rhs(t: Tensor, y: Tensor, delayed: Any) -> Tensor:
        return -delayed(0)

    return DDE(rhs, [tau], lambda t: 1 + torch.sin(3 * t) / 2, (0.0, end))
