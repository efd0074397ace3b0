"""The method of steps: order, closed forms, delays that are short, vanish, or depend on the state; derivatives."""

import math
from itertools import pairwise

import pytest
import torch

from decathlon.equations.breaking import breaking_points, refine
from decathlon.equations.hermite import INNER, PiecewiseHermite
from decathlon.equations.steps import integrate


def one(t: torch.Tensor) -> torch.Tensor:
    return torch.ones(1, len(t), dtype=torch.float64)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def linear(tau: torch.Tensor, step: float) -> PiecewiseHermite:
    return integrate(lambda t, y, read: -read(0), [tau], one, torch.ones(1, dtype=torch.float64), (0.0, 10.0), step)


def exact(t: torch.Tensor, tau: float) -> torch.Tensor:
    total = torch.ones_like(t)
    for k in range(1, math.floor(10 / tau) + 2):
        total = total + (-1) ** k * (t - (k - 1) * tau).clamp(min=0) ** k / float(math.factorial(k))
    return total


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5])
def test_the_linear_problem_against_its_closed_form(tau: float) -> None:
    t = torch.linspace(0, 10, 1001, dtype=torch.float64)
    assert float((linear(scalar(tau), 0.01)(t)[0] - exact(t, tau)).abs().max()) < 1e-9


def test_order_four_when_the_step_divides_the_delay() -> None:
    t = torch.linspace(0, 10, 1001, dtype=torch.float64)
    errors = [float((linear(scalar(1.0), step)(t)[0] - exact(t, 1.0)).abs().max()) for step in (0.1, 0.05, 0.025)]
    for coarse, fine in pairwise(errors):
        assert 14 < coarse / fine < 18


def test_derivative_by_the_delay() -> None:
    times = torch.tensor([2.0, 4.0, 6.0, 8.0, 10.0], dtype=torch.float64)
    tau = scalar(1.0).requires_grad_()
    (found,) = torch.autograd.grad(linear(tau, 0.01)(times).square().sum(), tau)
    # d/dtau of the closed form: the k-th term gives -(k - 1) (-1)^k (t - (k - 1) tau)^(k - 1) / (k - 1)!
    slope = torch.zeros_like(times)
    for k in range(2, 12):
        base = (times - (k - 1)).clamp(min=0)
        slope = slope - (k - 1) * (-1) ** k * base ** (k - 1) / float(math.factorial(k - 1))
    wanted = (2 * exact(times, 1.0) * slope).sum()
    assert float(abs(found / wanted - 1)) < 1e-6


@pytest.mark.parametrize("tau", [0.0, 1e-4, 0.003])
def test_a_delay_shorter_than_a_step_tends_to_an_ordinary_equation(tau: float) -> None:
    t = torch.linspace(0, 10, 101, dtype=torch.float64)
    found = linear(scalar(tau), 0.05)(t)[0]
    rate = (tau and -float(torch.tensor(1.0))) or -1.0
    for _ in range(200):  # the slow mode: rate = -exp(-rate tau)
        rate = -math.exp(-rate * tau)
    assert float((found - torch.exp(rate * t)).abs().max()) < 1e-5 + tau


def test_a_state_dependent_delay_with_a_jump_is_followed_through_its_breaking_points() -> None:
    corner = 4 + 2 * math.log(2)
    found = integrate(
        lambda t, y, read: read(0), [lambda t, y: t - y[0]], lambda t: 0.5 * one(t),
        torch.ones(1, dtype=torch.float64), (2.0, corner + 0.5), 0.05,
    )  # fmt: skip
    t = torch.linspace(2, corner + 0.5, 501, dtype=torch.float64)
    last = 4 - 2 * torch.log((1 + corner - t).clamp(min=0.1))
    wanted = torch.where(t <= 4, t / 2, torch.where(t <= corner, 2 * torch.exp(t / 2 - 2), last))
    assert float((found(t)[0] - wanted).abs().max()) < 1e-5
    assert float((found.nodes - corner).abs().min()) < 1e-6  # a node lies on the corner


def test_a_negative_delay_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        linear(scalar(-0.1), 0.1)
    with pytest.raises(ValueError, match="must not be negative"):
        integrate(
            lambda t, y, read: -read(0),
            [lambda t, y: -0.5 + 0 * t],
            one,
            torch.ones(1, dtype=torch.float64),
            (0.0, 1.0),
            0.1,
        )


def test_breaking_points_are_sums_of_delays_once_each_and_move_with_them() -> None:
    lag = scalar(0.3).requires_grad_()
    points = breaking_points(0.0, 1.0, [lag, scalar(0.6)])
    assert torch.allclose(points, torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64))
    (slope,) = torch.autograd.grad(points[1], lag, retain_graph=True)
    assert float(slope) == 1.0
    mesh = refine(points, 0.1)
    assert float((mesh[1:] - mesh[:-1]).max()) <= 0.1 * (1 + 1e-4)
    assert all(float((mesh - point).abs().min()) == 0 for point in points)


def test_dense_output_reproduces_cubics_and_keeps_both_sides_of_a_jump() -> None:
    nodes = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    cubic, slope = nodes**3 - nodes, 3 * nodes**2 - 1
    slopes = torch.stack([slope[:-1], slope[1:]], dim=1)[None]
    curve = PiecewiseHermite(lambda t: 7 + 0 * t[None], nodes, cubic[None], slopes)
    t = torch.linspace(0, 2, 41, dtype=torch.float64)
    assert torch.allclose(curve(t)[0], t**3 - t, atol=1e-14)
    assert torch.allclose(curve(t, derivative=True)[0], 3 * t**2 - 1, atol=1e-13)
    at = torch.zeros(1, dtype=torch.float64)
    assert float(curve(at, -1e-9)) == 7 and float(curve(at, 1e-9)) == 0


def test_a_third_slope_makes_the_dense_output_quartic() -> None:
    nodes = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    inner = nodes[:-1] + INNER * (nodes[1:] - nodes[:-1])

    def slope(t: torch.Tensor) -> torch.Tensor:
        return 4 * t**3 - 1

    slopes = torch.stack([slope(nodes[:-1]), slope(nodes[1:]), slope(inner)], dim=1)[None]
    curve = PiecewiseHermite(lambda t: 0 * t[None], nodes, (nodes**4 - nodes)[None], slopes)
    t = torch.linspace(0, 2, 41, dtype=torch.float64)
    assert torch.allclose(curve(t)[0], t**4 - t, atol=1e-13)
    assert torch.allclose(curve(t, derivative=True)[0], slope(t), atol=1e-12)


def test_between_nodes_the_solution_is_as_accurate_as_at_them() -> None:
    """y' = -y(t - 1) with y = 1 before 0: on (3, 4) a polynomial of degree 4, which steps with a cubic would miss."""
    curve = linear(torch.tensor(1.0, dtype=torch.float64), 0.1)
    t = torch.linspace(3.0, 4.0, 101, dtype=torch.float64)
    assert float((curve(t)[0] - exact(t, 1.0)).abs().max()) < 1e-7
