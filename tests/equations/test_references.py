"""Classical solvers against themselves refined, invariants and the official files."""

import math

import numpy as np
import pytest
import torch

from decathlon.equations.references import (
    burgers_cole_hopf,
    kuramoto_sivashinsky_etdrk4,
    schrodinger_split_step,
)

NU = 0.01 / math.pi


def mesh() -> tuple[torch.Tensor, torch.Tensor]:
    x = -1 + (torch.arange(256, dtype=torch.float64) + 0.5) / 128
    return torch.meshgrid(x, torch.linspace(0, 1, 100, dtype=torch.float64), indexing="ij")  # type: ignore[return-value]


def test_burgers_quadrature_has_converged_and_is_odd() -> None:
    x, t = mesh()
    u = burgers_cole_hopf(x, t, NU)
    assert (u - burgers_cole_hopf(x, t, NU, nodes=60)).abs().max() < 1e-8
    assert (u + burgers_cole_hopf(-x, t, NU)).abs().max() < 1e-12
    assert torch.allclose(u[:, 0], -torch.sin(math.pi * x[:, 0]), atol=1e-15)
    assert burgers_cole_hopf(torch.tensor(1.0).double(), torch.tensor(0.7).double(), NU).abs() < 1e-12


def test_burgers_solution_satisfies_the_equation_away_from_the_shock() -> None:
    x = torch.linspace(-0.9, -0.2, 30, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0.1, 0.9, 30, dtype=torch.float64, requires_grad=True)
    u = burgers_cole_hopf(x, t, NU)
    u_x, u_t = torch.autograd.grad(u.sum(), [x, t], create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x)
    assert (u_t + u * u_x - NU * u_xx).abs().max() < 1e-9


def test_what_has_no_solution_is_refused() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    for x, t, viscosity, message in (
        (zero, zero, 0.0, "must be positive"),
        (zero.float(), zero.float(), NU, "needs float64"),
        (zero, zero - 1, NU, "before t = 0"),
    ):
        with pytest.raises(ValueError, match=message):
            burgers_cole_hopf(x, t, viscosity)
    for times, step, message in (([0.2, 0.1], 0.1, "ascend"), ([-0.1], 0.1, "ascend"), ([0.1], 0.0, "step=0.0")):
        with pytest.raises(ValueError, match=message):
            schrodinger_split_step(bump(8, 10.0), 10.0, times, step)
        with pytest.raises(ValueError, match=message):
            kuramoto_sivashinsky_etdrk4(np.zeros(8), 10.0, times, step, (1.0, 1.0, 1.0))


def bump(n: int, length: float) -> np.ndarray:
    return 2 / np.cosh(-length / 2 + length * np.arange(n) / n) + 0j


def test_split_step_keeps_the_mass() -> None:
    start = bump(256, 10.0)
    found = schrodinger_split_step(start, 10.0, [0.0, 0.3, 0.6], 1e-3)
    mass = (np.abs(found) ** 2).sum(1) * 10 / 256
    assert np.abs(mass - 7.99927).max() < 1e-5
    assert np.array_equal(found[0], start)


def test_split_step_converges_at_fourth_order() -> None:
    # A wide interval and few modes: the phase of the highest one turns slowly enough for the asymptotic range.
    fine, half, whole = (schrodinger_split_step(bump(128, 20.0), 20.0, [0.5], dt) for dt in (5e-4, 2e-3, 4e-3))
    assert np.abs(half - fine).max() < 1e-5
    assert np.abs(whole - fine).max() / np.abs(half - fine).max() > 12


def test_split_step_carries_a_soliton() -> None:
    """h = sech(x) exp(i t/2) is an exact solution on the line."""
    x = -20 + 40 * np.arange(512) / 512
    found = schrodinger_split_step(1 / np.cosh(x) + 0j, 40.0, [1.0], 1e-3)[0]
    assert np.abs(found - np.exp(0.5j) / np.cosh(x)).max() < 1e-7


def test_etdrk4_linear_part_is_exact_and_nonlinear_part_converges() -> None:
    n = 64
    x = 2 * np.pi * np.arange(n) / n
    linear = kuramoto_sivashinsky_etdrk4(np.cos(3 * x), 2 * np.pi, [0.5], 0.1, (0.0, 0.2, 0.03))[0]
    assert np.abs(linear - np.cos(3 * x) * math.exp((0.2 * 9 - 0.03 * 81) * 0.5)).max() < 1e-12
    start = np.cos(x) * (1 + np.sin(x))
    runs = [
        kuramoto_sivashinsky_etdrk4(start, 2 * np.pi, [0.2], dt, (6.25, 0.390625, 100 / 16**4))[0]
        for dt in (4e-3, 2e-3, 2.5e-4)
    ]
    errors = [np.abs(run - runs[2]).max() for run in runs[:2]]
    assert errors[1] < 1e-4 and errors[0] / errors[1] > 10


def test_etdrk4_satisfies_viscous_burgers() -> None:
    """With (a, b, c) = (1, -nu, 0) it is Burgers' equation, whose exact solution is known."""
    n, nu = 512, 0.05
    x = -1 + 2 * np.arange(n) / n
    found = kuramoto_sivashinsky_etdrk4(-np.sin(np.pi * x), 2.0, [0.5], 5e-4, (1.0, -nu, 0.0))[0]
    exact = burgers_cole_hopf(torch.from_numpy(x), torch.full((n,), 0.5, dtype=torch.float64), nu).numpy()
    assert np.abs(found - exact).max() < 1e-8
