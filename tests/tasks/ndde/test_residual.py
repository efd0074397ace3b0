"""The residual operator, the networks behind it, and the weights of the losses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from decathlon.tasks.ndde import DDE, Unknown, problems
from decathlon.tasks.ndde.networks import Architecture, evaluate, plain, start_values
from decathlon.tasks.ndde.observations import add_noise, observe
from decathlon.tasks.ndde.residual import FunctionCandidate, residual
from decathlon.tasks.ndde.solvers import Pinn
from decathlon.tasks.ndde.weights import frozen, objective, shares

ARCHITECTURES = [Architecture(), Architecture((5, 6), "sin", 2.0), Architecture((7,), "sin", 2.0, True)]


def times(problem: DDE, count: int = 201) -> Tensor:
    start, end = problem.span
    return start + (end - start) * (torch.arange(count, dtype=torch.float64) + 0.37) / count


@pytest.mark.parametrize(
    ("name", "options", "scale"),
    [
        ("linear", {"tau": 0.5}, 1.0), ("linear", {"tau": 1.0}, 1.0), ("linear", {"tau": 1.5}, 1.0),
        ("oscillating", {}, 1.0), ("neutral", {}, 1.0), ("state_dep", {}, 1.0), ("stiff", {}, 1e6),
        ("pantograph", {}, 1.0),
    ],
)  # fmt: skip
def test_an_exact_solution_has_no_residual(name: str, options: dict[str, Any], scale: float) -> None:
    problem = getattr(problems, name)(**options)
    found = residual(problem.instance(), FunctionCandidate(problem.exact), times(problem))
    assert float(found.square().mean()) < 1e-20 * scale


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=["tanh", "sin", "log"])
def test_the_tangent_pass_is_the_derivative_and_its_gradient_is_autograds(architecture: Architecture) -> None:
    flat = architecture.initial("arxiv", torch.Generator().manual_seed(0)).requires_grad_()
    t = torch.linspace(-1, 3, 33, dtype=torch.float64).requires_grad_()
    value, slope = evaluate(architecture, flat, t, 20)
    wanted, _ = plain(architecture, flat, t)
    (exact,) = torch.autograd.grad(wanted.sum(), t, create_graph=True)
    assert float((value - wanted).abs().max()) < 1e-13
    assert float((slope - exact[:20]).abs().max() / exact.abs().max()) < 1e-13
    weights = torch.randn(33, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    ours = torch.autograd.grad((value, slope), (flat, t), weights)
    theirs = torch.autograd.grad((wanted, exact[:20]), (flat, t), weights)
    for a, b in zip(ours, theirs):
        assert float((a - b).abs().max() / b.abs().max()) < 1e-12


@pytest.mark.parametrize("history", ["constant", "varying"])
def test_the_gradient_by_the_delay_is_the_central_difference(history: str) -> None:
    past = (lambda t: torch.ones_like(t)) if history == "constant" else (lambda t: torch.cos(2 * t) + t)
    problem = DDE(lambda t, y, delayed: -delayed(0), [Unknown(0.8)], past, (0.0, 4.0))
    solver = Pinn(points=50)
    solver.begin(problem, observe(problem, [1.0, 2.0], [0.3, 0.1]), 0)
    t = solver.times
    solver.times = t[((t - 0.8).abs() > 1e-4)]
    from decathlon.tasks.ndde.residual import Collocation

    solver.collocation = Collocation(solver.times)
    flat = solver.flat.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(solver.terms(flat).sum(), flat)
    up, down = flat.detach().clone(), flat.detach().clone()
    up[-1] += 1e-6
    down[-1] -= 1e-6
    difference = float(solver.terms(up).sum() - solver.terms(down).sum()) / 2e-6
    assert abs(float(gradient[-1]) / difference - 1) < 1e-6


@pytest.mark.parametrize("past", [lambda t: torch.sqrt(-t), lambda t: torch.log(1 - t)])
def test_a_history_that_ends_at_the_start_spoils_no_gradient(past: Any) -> None:
    problem = DDE(lambda t, y, delayed: -delayed(0), [Unknown(0.7)], past, (0.0, 3.0))
    solver = Pinn(points=100)
    solver.begin(problem, observe(problem, [1.0, 2.0], [0.3, 0.1]), 0)
    (gradient,) = torch.autograd.grad(solver.terms(solver.flat).sum(), solver.flat)
    assert bool(torch.isfinite(gradient).all()) and float(gradient[-1]) != 0


def test_weights_and_their_gradients() -> None:
    one = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert float(objective(one, "coupled")[0]) == float(objective(one, "detached")[0]) == 1
    losses = torch.tensor([1.0, 0.1], dtype=torch.float64, requires_grad=True)
    value = losses.square().sum() / losses.sum()
    (gradient,) = torch.autograd.grad(value, losses)
    found, factors = objective(losses, "coupled")
    assert torch.allclose(found, value) and torch.allclose(factors, gradient)
    assert abs(float(factors[1]) - (2 * 0.1 / 1.1 - 1.01 / 1.21)) < 1e-15 and abs(float(factors[1]) + 0.6529) < 1e-4
    assert torch.allclose(objective(losses, "detached")[1], losses / losses.sum())
    assert float(objective(losses, "uniform")[1].sum()) == 1
    for kind in ("coupled", "detached", "uniform"):
        assert torch.allclose(objective(7 * losses, kind)[0], 7 * objective(losses, kind)[0])
    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.isfinite(shares(zero)).all() and torch.isfinite(objective(zero, "coupled")[1]).all()
    kept = frozen(torch.tensor([1.0, 1e-9], dtype=torch.float64), 0.1)
    assert float(kept.sum()) == pytest.approx(1) and float(kept[1]) > 0.09


def test_a_problem_within_one_delay_never_reads_the_network_back() -> None:
    problem = problems.oscillating(end=0.0625 * math.pi)
    solver = Pinn(points=30, first="sin", kappa=8.0)
    solver.begin(problem, None, 0)
    asked: list[float] = []
    read = solver.collocation.residual

    class Spy(FunctionCandidate):
        def read(self, key: Any, s: Tensor, where: Tensor) -> Tensor:
            asked.extend(s.tolist())
            return super().read(key, s, where)

    read(problem.instance(), Spy(problem.exact))
    assert not asked


def test_networks_have_parameters_of_their_own() -> None:
    assert Architecture().count == 1721 and Architecture((10, 20, 10)).count == 461
    assert Architecture(first="sin").count == 1722
    shared = start_values(Architecture(), 3, "journal", "shared", 0).reshape(3, -1)
    assert len(shared[0]) == 1721 and torch.equal(shared[0], shared[1])
    apart = start_values(Architecture(), 3, "journal", "independent", 0).reshape(3, -1)
    assert not torch.equal(apart[0], apart[1]) and torch.equal(apart[0], shared[0])
    solver = Pinn(points=20, adam=3, bfgs=0)
    solver.begin(problems.quad(), None, 0)
    solver.advance()
    parts = solver.flat.detach().reshape(3, -1)
    assert not torch.equal(parts[0], parts[1])  # they start alike and part at once


def test_as_the_delay_vanishes_the_residual_is_that_of_the_ordinary_equation() -> None:
    problem = problems.linear(1e-9)
    found = residual(problem.instance(), FunctionCandidate(lambda t: torch.exp(-t)), times(problem))
    assert float(found.abs().max()) < 1e-8


def test_noise() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)

    def noisy(level: float, seed: int, shared: bool = True) -> Tensor:
        return add_noise(values, level, torch.Generator().manual_seed(seed), shared)

    assert torch.equal(noisy(0.0, 0), values)
    assert torch.equal(noisy(0.1, 0), noisy(0.1, 0)) and not torch.equal(noisy(0.1, 0), noisy(0.1, 1))
    factor = noisy(0.1, 0) / values
    assert torch.allclose(factor[0], factor[1])
    apart = noisy(0.1, 0, False) / values
    assert not torch.allclose(apart[0], apart[1])


def test_hard_constraint_and_scales_are_built_in() -> None:
    problem = problems.quad()
    solver = Pinn(points=20, constraint="hard", output_scale=[1.0, 2.0, 3.0])
    solver.begin(problem, None, 0)
    assert torch.allclose(solver.solution()(0.0), torch.ones(3, dtype=torch.float64))
    assert len(solver.terms(solver.flat)) == 3
    with pytest.raises(ValueError, match="output_scale"):
        Pinn(output_scale=[1.0, 2.0]).begin(problem, None, 0)


def test_levenberg_marquardts_jacobian_is_that_of_its_residuals() -> None:
    problem = problems.sir().unknown(tau1=1.5, tau2=1.0, beta=0.6)
    values = torch.rand(3, 4, dtype=torch.float64)
    values[1, 2] = math.nan
    solver = Pinn(points=15, adam=1, bfgs=1, second="lm", widths=[4, 3])
    solver.begin(problem, observe(problem, [1.0, 2.0, 5.0, 9.0], values), 0)
    solver.advance()
    solver.held = solver._stage2_weights()
    x = solver.flat.detach().numpy().copy()
    residuals, jacobian = solver._jacobian(x)
    assert abs(float(residuals @ residuals) - solver._function(x)[0]) < 1e-12
    for k in [0, 7, len(x) - 3, len(x) - 2, len(x) - 1]:
        up, down = x.copy(), x.copy()
        up[k] += 1e-6
        down[k] -= 1e-6
        difference = (solver._residuals(up) - solver._residuals(down)) / 2e-6
        assert abs(jacobian[:, k] - difference).max() < 1e-6
