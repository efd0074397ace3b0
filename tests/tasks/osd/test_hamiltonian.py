"""The theory: whatever moves P, the Hamiltonian of the inner optimizer does not increase along its flow.

Systems W' = -P dX, with a smooth loss L and an arbitrary smooth P(t) that is not orthonormal.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from decathlon.randomness import generator

N, M_COLUMNS, K = 6, 8, 3
State = tuple[Tensor, ...]
_random = generator("hamiltonian")


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_random, dtype=torch.float64)


_ROOT = _draw(N, N)
A = _ROOT @ _ROOT.T / N + 0.1 * torch.eye(N, dtype=torch.float64)
BASE, WAVE, PHASE = _draw(N, K), _draw(N, K), _draw(N, K)


def projection(t: float) -> Tensor:
    return BASE + WAVE * torch.sin(2.0 * t + PHASE)


def log_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.nn.functional.softplus(-2 * x.abs()) - math.log(2)


def loss(weight: Tensor) -> Tensor:
    return 0.5 * (weight * (A @ weight)).sum() + 0.3 * log_cosh(weight).sum()


def slope(weight: Tensor) -> Tensor:
    return A @ weight + 0.3 * torch.tanh(weight)


def momentum(a: float = 1.5) -> tuple[Callable[[float, State], State], Callable[[State], Tensor]]:
    def flow(t: float, state: State) -> State:
        weight, first = state
        p = projection(t)
        return -p @ first, a * (p.T @ slope(weight) - first)

    return flow, lambda state: loss(state[0]) + state[1].square().sum() / (2 * a)


def adam(a: float, b: float, eps: float = 1e-2) -> tuple[Callable[[float, State], State], Callable[[State], Tensor]]:
    def flow(t: float, state: State) -> State:
        weight, first, second = state
        p = projection(t)
        r = p.T @ slope(weight)
        return -p @ (first / (second.sqrt() + eps)), a * (r - first), b * (r.square() - second)

    return flow, lambda state: loss(state[0]) + (state[1].square() / (state[2].sqrt() + eps)).sum() / (2 * a)


def lion(a: float = 1.5, b: float = 0.3) -> tuple[Callable[[float, State], State], Callable[[State], Tensor]]:
    def flow(t: float, state: State) -> State:
        weight, first = state
        p = projection(t)
        r = p.T @ slope(weight)
        return p @ torch.tanh((1 - b) * first - b * r), -a * (r + first)

    return flow, lambda state: a * loss(state[0]) + log_cosh((1 - b) * state[1]).sum() / (1 - b)


def largest_increase(
    flow: Callable[[float, State], State],
    energy: Callable[[State], Tensor],
    state: State,
    time: float,
    h: float = 2.5e-3,
) -> float:
    """The largest change of the energy in one step of the classical Runge-Kutta method."""
    largest, before = -math.inf, energy(state)
    for step in range(round(time / h)):
        t = step * h
        k1 = flow(t, state)
        k2 = flow(t + h / 2, tuple(x + h / 2 * k for x, k in zip(state, k1)))
        k3 = flow(t + h / 2, tuple(x + h / 2 * k for x, k in zip(state, k2)))
        k4 = flow(t + h, tuple(x + h * k for x, k in zip(state, k3)))
        state = tuple(x + h / 6 * (a + 2 * b + 2 * c + d) for x, a, b, c, d in zip(state, k1, k2, k3, k4))
        after = energy(state)
        largest, before = max(largest, float(after - before)), after
    return largest


def test_momentum_loses_energy_whatever_moves_the_subspace() -> None:
    flow, energy = momentum()
    assert largest_increase(flow, energy, (_draw(N, M_COLUMNS), _draw(K, M_COLUMNS)), 5.0) <= 1e-9


def test_the_derivative_of_momentums_energy_is_minus_the_square_of_the_moment() -> None:
    flow, energy = momentum()
    for t in range(5):
        state = tuple(x.requires_grad_() for x in (_draw(N, M_COLUMNS), _draw(K, M_COLUMNS)))
        gradients = torch.autograd.grad(energy(state), state)
        with torch.no_grad():
            rate = sum((g * x).sum() for g, x in zip(gradients, flow(float(t), state)))
            assert abs(float(rate + state[1].square().sum())) < 1e-10  # type: ignore[operator]


def test_adam_and_lion_do_too() -> None:
    flow, energy = adam(a=2.0, b=1.0)
    start = (_draw(N, M_COLUMNS), torch.zeros(K, M_COLUMNS).double(), torch.zeros(K, M_COLUMNS).double() + 1e-4)
    assert largest_increase(flow, energy, start, 5.0) <= 1e-9
    flow, energy = lion()
    assert largest_increase(flow, energy, (_draw(N, M_COLUMNS), _draw(K, M_COLUMNS)), 5.0) <= 1e-9


def test_adams_condition_on_its_rates_is_needed() -> None:
    flow, energy = adam(a=2.0, b=40.0)
    start = (_draw(N, M_COLUMNS), 10 * _draw(K, M_COLUMNS), torch.ones(K, M_COLUMNS).double() * 1e2)
    assert largest_increase(flow, energy, start, 0.3) > 1e-3
