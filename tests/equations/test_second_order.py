"""Gradients of gradients through the fast pass: gradient-enhanced losses, Hessians, Jacobians."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from decathlon.equations import MLP, Derivatives, differentiate, jacobian
from decathlon.equations.jet import JetPlan
from decathlon.equations.taylor import taylor_mlp

WANTED = ("x", "t", "xx", "xxx", "xt", "xx+tt")


def network() -> MLP:
    torch.manual_seed(0)
    net = MLP(2, 2, width=7, hidden=3, input_scale=(0.5, 2.0)).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def points(count: int = 9) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(d: Derivatives) -> Tensor:
    """A linear equation: its derivative by the jet is a constant, which has no graph of its own."""
    return d["t"] - 0.3 * d["xx"] + d.value


def nonlinear(d: Derivatives) -> Tensor:
    return d["t"] + d.value * d["x"] - 0.3 * d["xx"].sin() + d["xt"] * d["xxx"] + d["xx+tt"]


EQUATIONS = {"linear": linear, "nonlinear": nonlinear}


def both(
    loss: Callable[[MLP, Tensor, str], Tensor], again: Callable[[Tensor, MLP, Tensor], tuple]
) -> list[list[Tensor]]:
    found = []
    for engine in ("taylor", "nested"):
        net, x = network(), points().requires_grad_()
        found.append([part.detach() for part in again(loss(net, x, engine), net, x)])
    return found


def close(pair: list[list[Tensor]]) -> None:
    assert len(pair[0]) == len(pair[1]) > 0
    assert max(float(reference.abs().max()) for reference in pair[1]) > 1e-6
    for ours, reference in zip(*pair):
        assert torch.allclose(ours, reference, rtol=1e-8, atol=1e-10)


def gradients(loss: Tensor, net: MLP, x: Tensor, graph: bool = False) -> tuple[Tensor, ...]:
    trained = [x, *net.parameters()]
    return torch.autograd.grad(loss, trained, create_graph=graph, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("name", EQUATIONS)
def test_gradient_enhanced_residual(name: str) -> None:
    """gPINN adds the squared gradient of the residual by the points (Yu et al. 2022, eq. 5)."""

    def loss(net: MLP, x: Tensor, engine: str) -> Tensor:
        residual = EQUATIONS[name](differentiate(net, x, "xt", WANTED, engine))
        (slopes,) = torch.autograd.grad(residual.sum(), x, create_graph=True)
        return residual.square().mean() + slopes.square().mean()

    close(both(loss, gradients))


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("power", [1, 2])
def test_hessian_vector_products(name: str, power: int) -> None:
    def loss(net: MLP, x: Tensor, engine: str) -> Tensor:
        return EQUATIONS[name](differentiate(net, x, "xt", WANTED, engine)).pow(power).mean()

    def product(value: Tensor, net: MLP, x: Tensor) -> tuple[Tensor, ...]:
        first = gradients(value, net, x, graph=True)
        direction = [torch.sin(torch.arange(g.numel(), dtype=g.dtype)).view_as(g) for g in first]
        along = torch.stack([(g * v).sum() for g, v in zip(first, direction)]).sum()
        return gradients(along, net, x)

    close(both(loss, product))


def test_third_gradients() -> None:
    def loss(net: MLP, x: Tensor, engine: str) -> Tensor:
        return linear(differentiate(net, x, "xt", WANTED, engine)).square().mean()

    def third(value: Tensor, net: MLP, x: Tensor) -> tuple[Tensor, ...]:
        first = gradients(value, net, x, graph=True)
        second = gradients(torch.stack([g.sin().sum() for g in first]).sum(), net, x, graph=True)
        return gradients(torch.stack([g.square().sum() for g in second]).sum(), net, x)

    close(both(loss, third))


def test_one_weight_at_two_places_has_both_gradients() -> None:
    def loss(net: MLP, x: Tensor, engine: str) -> Tensor:
        net.hidden[2].weight = net.hidden[1].weight
        return linear(differentiate(net, x, "xt", WANTED, engine)).sum()

    def again(value: Tensor, net: MLP, x: Tensor) -> tuple[Tensor, ...]:
        first = gradients(value, net, x, graph=True)
        return *first, *gradients(torch.stack([g.square().sum() for g in first]).sum(), net, x)

    close(both(loss, again))


def test_a_frozen_layer_does_not_stop_the_second_gradient() -> None:
    def loss(net: MLP, x: Tensor, engine: str) -> Tensor:
        net.hidden[1].requires_grad_(False)
        residual = linear(differentiate(net, x, "xt", WANTED, engine))
        (slopes,) = torch.autograd.grad(residual.sum(), x, create_graph=True)
        return slopes.square().mean()

    def trained(value: Tensor, net: MLP, x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value, [p for p in net.parameters() if p.requires_grad], materialize_grads=True,
                                   allow_unused=True)  # fmt: skip

    close(both(loss, trained))


def test_numerical_gradients() -> None:
    """First and second gradients of the jet against finite differences."""
    plan = JetPlan((0, 1), (((0, 0, 1.0),), ((0, 1, 0.5), (1, 1, 2.0))), ((0, 0, 4),))
    torch.manual_seed(2)
    shapes = [(3, 2), (3, 3), (2, 3), (3,), (3,), (2,)]
    parts = [0.5 * torch.randn(shape, dtype=torch.float64) for shape in shapes]
    inputs = tuple(part.requires_grad_() for part in (points(2), *parts))

    def jet(x: Tensor, *parameters: Tensor) -> Tensor:
        return taylor_mlp(x, parameters[:3], parameters[3:], plan)

    assert torch.autograd.gradcheck(jet, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(jet, inputs, fast_mode=True)


@pytest.mark.parametrize("engine", ["taylor", "nested"])
def test_jacobian_of_residuals(engine: str) -> None:
    net, x = network(), points()
    found = nonlinear(differentiate(net, x, "xt", WANTED, engine))
    parameters = list(net.parameters())
    matrix = jacobian(found, parameters)
    flat = found.reshape(-1)
    assert matrix.shape == (18, sum(p.numel() for p in parameters)) and not matrix.requires_grad
    again = nonlinear(differentiate(net, x, "xt", WANTED, "nested")).reshape(-1)
    for row, residual in zip(matrix, again):
        expected = torch.autograd.grad(
            residual, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert torch.allclose(row, torch.cat([g.reshape(-1) for g in expected]), rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(flat.square().sum() / 2, net.head.weight)
    assert torch.allclose((matrix.t() @ flat)[-16:-2], gradient.reshape(-1))


@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("chosen", [[0], [63], [3, 20, 40], []])
def test_a_gradient_at_few_points_is_that_of_these_points(chosen: list[int], chunk: int | None) -> None:
    found = []
    for engine in ("taylor", "nested"):
        net, x = network(), points(64).requires_grad_()
        residual = nonlinear(differentiate(net, x, "xt", WANTED, engine, chunk))[:, chosen].sum()
        found.append([part.detach() for part in gradients(residual, net, x)])
    for ours, reference in zip(*found):
        assert torch.allclose(ours, reference, rtol=1e-8, atol=1e-10)


def test_batched_gradients() -> None:
    net = network()
    flat = nonlinear(differentiate(net, points(), "xt", WANTED, "taylor")).reshape(-1)
    parameters = list(net.parameters())

    def row(direction: Tensor) -> Tensor:
        found = torch.autograd.grad(
            flat, parameters, direction, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([gradient.reshape(-1) for gradient in found])

    batched = torch.func.vmap(row)(torch.eye(len(flat), dtype=torch.float64))
    assert torch.allclose(batched, jacobian(flat, parameters), rtol=1e-9, atol=1e-12)


def test_jacobian_of_several_equations_and_a_coefficient() -> None:
    net, x = network(), points()
    viscosity = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
    d = differentiate(net, x, "xt", ("t", "xx"))
    u, v = d["t"] - viscosity * d["xx"]
    matrix = jacobian([u, v, x[:, 0]], [viscosity, *net.parameters()])
    assert len(matrix) == 27 and torch.equal(matrix[18:], torch.zeros_like(matrix[18:]))
    assert torch.allclose(matrix[:18, 0], -d["xx"].reshape(-1).detach())
    assert len(jacobian([], list(net.parameters()))) == 0


def test_gauss_newton_solves_a_linear_problem_in_one_step() -> None:
    """Residuals that are linear in the parameters: a step of least squares is the solution."""
    x = points()
    head = nn.Linear(2, 1).double()
    residual = head(x)[:, 0] - (3 * x[:, 0] - x[:, 1] + 2)
    step = torch.linalg.lstsq(jacobian(residual, list(head.parameters())), residual.detach()[:, None]).solution
    found = nn.utils.parameters_to_vector(head.parameters()) - step[:, 0]
    assert torch.allclose(found, torch.tensor([3.0, -1.0, 2.0]).double())
