"""The PDEs: losses vanish on exact solutions, official reductions and points, references."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decathlon.equations import Derivatives, differentiate
from decathlon.equations.references import schrodinger_split_step
from decathlon.equations.sampling import generator, latin_hypercube
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.problems import (
    Beltrami,
    Burgers,
    BurgersInverse,
    HeatMultiscale,
    Kovasznay,
    KuramotoSivashinsky,
    Poisson5D,
    Problem,
    Schrodinger,
)
from decathlon.tasks.pinn.problems.burgers import VISCOSITY
from decathlon.tasks.pinn.problems.ks import COEFFICIENTS

THREE = {"pde": 60, "boundary": 40, "initial": 30}
TWO = {"pde": 60, "boundary": 40}
PROBLEMS: dict[str, Callable[..., Problem]] = {
    "burgers": lambda **k: Burgers(THREE, **k),
    "schrodinger": lambda **k: Schrodinger(THREE, **k),
    "kovasznay": lambda **k: Kovasznay(TWO, **k),
    "beltrami": lambda **k: Beltrami(THREE, **k),
    "beltrami_faces": lambda **k: Beltrami(THREE, boundary="faces", **k),
    "ks": lambda **k: KuramotoSivashinsky(THREE, **k),
    "heat_multiscale": lambda **k: HeatMultiscale(THREE, **k),
    "poisson5d": lambda **k: Poisson5D(TWO, **k),
}
official = pytest.mark.skipif(not os.environ.get("DECATHLON_TEST_DATA"), reason="needs the official reference files")


class Exact(nn.Module):
    """Stands in for a network: the exact solution."""

    def __init__(self, solution: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.solution = solution
        self.dtype_marker = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.solution(x) + 0 * self.dtype_marker


@pytest.mark.parametrize("losses", [2, 3])
@pytest.mark.parametrize("name", ["burgers", "kovasznay", "beltrami", "beltrami_faces", "heat_multiscale", "poisson5d"])
def test_losses_vanish_on_the_exact_solution(name: str, losses: int) -> None:
    if losses == 3 and name in ("kovasznay", "poisson5d"):
        pytest.skip("steady: two losses")
    problem = PROBLEMS[name](losses=losses)
    found = problem.losses(Exact(problem.solution), seed=0, step=3)
    assert list(found) == problem.loss_names and len(found) == losses
    for loss, value in found.items():
        # At the shock u_xx is 1e4, and rounding with it.
        assert value().item() < (1e-10 if (name, loss) == ("burgers", "pde") else 1e-12)


def test_schrodinger_losses_vanish_on_a_soliton() -> None:
    """h = sech(x) exp(i t/2) solves the equation; periodic and initial losses are checked on functions made for it."""
    problem = Schrodinger(THREE, losses=3)

    def soliton(x: Tensor) -> Tensor:
        modulus = 1 / torch.cosh(x[:, :1])
        return torch.cat([modulus * torch.cos(x[:, 1:] / 2), modulus * torch.sin(x[:, 1:] / 2)], dim=1)

    assert float(problem.losses(Exact(soliton), 0, 0)["pde"]()) < 1e-12
    assert float(problem.losses(Exact(soliton), 0, 0)["boundary"]()) < 1e-12  # even in x, so periodic
    start = Exact(lambda x: torch.cat([2 / torch.cosh(x[:, :1]), 0 * x[:, :1]], dim=1))
    assert float(problem.losses(start, 0, 0)["initial"]()) == 0


def test_kuramoto_sivashinsky_residual_vanishes_on_the_numerical_solution() -> None:

    class Early(KuramotoSivashinsky):
        def test_axes(self) -> tuple[Tensor, ...]:
            x, t = super().test_axes()
            return x, t[:9]  # 1/200 ... 9/200, smooth

    problem = Early(THREE, losses=3)
    n = len(problem.test_axes()[0])
    u = problem.reference().reshape(n, -1)
    wave = 1j * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)

    def along_x(order: int) -> Tensor:
        return torch.fft.ifft(wave[:, None] ** order * torch.fft.fft(u, dim=0), dim=0).real[:, 4]

    stencil = torch.tensor([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280]).double() * 200
    named = {"x": along_x(1), "xx": along_x(2), "xxxx": along_x(4), "t": u @ stencil}
    d = Derivatives(u[None, :, 4], {name: value[None] for name, value in named.items()})
    (residual,) = problem.residuals(d, torch.zeros(n, 2))
    assert residual.abs().max() < 1e-4 * (COEFFICIENTS[0] * u[:, 4] * named["x"]).abs().max()


def test_periodic_losses_see_what_they_should() -> None:
    """x -> c x is not periodic: u differs by c times the length, u_x does not."""
    points = {"pde": 2, "boundary": 50, "initial": 2}
    ramp = Exact(lambda x: 0.25 * x[:, :1])
    assert float(KuramotoSivashinsky(points, losses=3).losses(ramp, 0, 0)["boundary"]()) == pytest.approx(
        (0.25 * 2 * math.pi) ** 2
    )
    arch = Exact(lambda x: x[:, :1] * (2 * math.pi - x[:, :1]))  # periodic, but its slope jumps by 4 pi
    assert float(KuramotoSivashinsky(points, losses=3).losses(arch, 0, 0)["boundary"]()) == pytest.approx(
        (4 * math.pi) ** 2
    )
    both = Exact(lambda x: torch.cat([0.1 * x[:, :1], 0.2 * x[:, :1]], dim=1))
    assert float(Schrodinger(points, losses=3).losses(both, 0, 0)["boundary"]()) == pytest.approx(1.0 + 4.0)


def test_two_losses_combine_the_conditions_as_the_paper_does() -> None:
    constant = {1: Exact(lambda x: 0 * x[:, :1] + 3), 2: Exact(lambda x: 0 * x[:, :2] + 3)}
    points = {"pde": 2, "boundary": 40, "initial": 40}
    for kind, fields, mean in ((Burgers, 1, True), (Schrodinger, 2, False), (HeatMultiscale, 1, False)):
        three = kind(points, losses=3).losses(constant[fields], 0, 0)
        two = kind(points, losses=2).losses(constant[fields], 0, 0)
        parts = float(three["boundary"]()), float(three["initial"]())
        assert float(two["data"]()) == pytest.approx(sum(parts) / 2 if mean else sum(parts))


@pytest.mark.parametrize("name", PROBLEMS)
def test_taylor_and_nested_engines_train_alike(name: str) -> None:
    """Losses and parameter gradients of every problem by both engines, single precision."""
    gradients = []
    for engine in ("taylor", "nested"):
        torch.manual_seed(0)
        problem = PROBLEMS[name](engine=engine)
        network = problem.network(width=12, hidden=2)
        losses = problem.losses(network, 0, 1)
        total = torch.stack([loss() for loss in losses.values()]).sum()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, list(network.parameters()))]))
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[1].norm()


def test_points_depend_on_seed_and_step_only() -> None:
    problem = Burgers(THREE)
    network = problem.network(8, 1)

    def values(seed: int, step: int) -> list[float]:
        return [float(loss()) for loss in problem.losses(network, seed, step).values()]

    assert values(0, 5) == values(0, 5)
    assert values(0, 5) != values(0, 6) and values(0, 5) != values(1, 5)
    halves = [float(problem.losses(network, 0, 5, rank, 2)["pde"]()) for rank in range(2)]
    assert halves[0] != halves[1]


def test_boundary_points_lie_where_they_should() -> None:
    random = generator(0)
    burgers = Burgers({"pde": 2, "boundary": 250, "initial": 250})
    boundary, initial = (condition.sample(250, random) for condition in burgers.data)
    assert (boundary.x[:125, 0] == -1).all() and (boundary.x[125:, 0] == 1).all()
    assert (initial.x[:, 1] == 0).all() and torch.equal(initial.target[0], -torch.sin(math.pi * initial.x[:, 0]))
    left, right = Schrodinger(THREE).data[0].sample(250, random).x.chunk(2)
    assert (left[:, 0] == -5).all() and (right[:, 0] == 5).all() and torch.equal(left[:, 1], right[:, 1])
    for name, pinned in (("beltrami", 2), ("beltrami_faces", 1)):
        x = PROBLEMS[name]().data[0].sample(300, random).x
        assert ((x[:, :3].abs() == 1).sum(1) == pinned).all()


def test_grids_have_the_papers_sizes() -> None:
    sizes = {name: make().test_points().shape for name, make in PROBLEMS.items()}
    assert sizes["burgers"] == (25600, 2) and sizes["schrodinger"] == (256 * 201, 2)
    assert sizes["kovasznay"] == (999, 2) and sizes["beltrami"] == (1960, 4) and sizes["poisson5d"] == (3125, 5)
    inside = Poisson5D(TWO).test_points()
    assert inside.min() > 0 and inside.max() < 1


def test_networks_have_the_papers_sizes() -> None:
    parameters = {name: sum(p.numel() for p in make().network().parameters()) for name, make in PROBLEMS.items()}
    assert parameters["burgers"] == 10401
    assert parameters["ks"] == 2 * 100 + 100 + 5 * (100 * 100 + 100) + 100  # no output bias
    network = Burgers(THREE).network()
    assert all(torch.allclose(layer.bias, torch.tensor(0.001)) for layer in network.linear_layers())
    wide = torch.cat([layer.weight.flatten() for layer in network.linear_layers()[1:5]])
    assert float(wide.detach().std()) == pytest.approx(math.sqrt(2 / 100), rel=0.05)  # Xavier normal, gain 1


def test_heat_network_scales_time() -> None:
    network = HeatMultiscale(THREE).network(6, 1)
    x = torch.rand(4, 3)
    hidden = torch.tanh(network.hidden[0](x * torch.tensor([1.0, 1.0, 0.2])))
    assert torch.allclose(network(x), network.head(hidden))


def test_inverse_problem_learns_the_viscosity_from_one_loss() -> None:
    problem = BurgersInverse({"pde": 50, "data": 30}, {"count": 40, "noise": 0.0, "seed": 0})
    assert problem.unknowns() == pytest.approx({"viscosity": 0.05, "viscosity_error": 0.05 / VISCOSITY - 1}, rel=1e-5)
    losses = problem.losses(problem.network(8, 1), 0, 0)
    assert torch.autograd.grad(losses["pde"](), problem.log_viscosity)[0].abs() > 0
    assert torch.autograd.grad(losses["data"](), problem.log_viscosity, allow_unused=True)[0] is None
    exact = Exact(problem.solution)
    assert float(problem.losses(exact, 0, 0)["data"]()) < 1e-20
    optimizer = torch.optim.LBFGS([problem.log_viscosity], lr=0.5, max_iter=40)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.losses(exact, 0, 0)["pde"]()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    assert problem.unknowns()["viscosity_error"] < 1e-3
    noisy = BurgersInverse({"pde": 50, "data": 4000}, {"count": 4000, "noise": 0.1, "seed": 0})
    assert float(noisy.losses(exact, 0, 0)["data"]()) == pytest.approx(0.01, rel=0.1)


def test_errors_over_points_and_fields() -> None:
    target = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = Schrodinger(THREE).errors(torch.tensor([[0.0, 5.0], [1.0, 0.0]]), target)
    assert found == pytest.approx({"mse": 11 / 4, "mse_u": 5.0, "mse_v": 0.5, "mse_abs": 0.5})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Burgers({"pde": 10, "boundary": 10}), "pde, boundary, initial"),
        (lambda: Burgers({**THREE, "initial": 1}), "at least 2 points"),
        (lambda: Burgers(THREE, losses=4), "2 or 3"),
        (lambda: Burgers(THREE, engine="fast"), "choose auto, taylor, nested"),
        (lambda: type("Odd", (Burgers,), {"derivatives": ("x", "z")})(THREE), "Odd.derivatives: 'z' is no derivative"),
        (lambda: Kovasznay(TWO, losses=3), "kovasznay has 2 or 4"),
        (lambda: Beltrami(THREE, boundary="corners"), "choose edges or faces"),
        (lambda: BurgersInverse({"pde": 2, "data": 2}, {"count": 2, "noise": 0, "seed": 0}, guess=-1.0), "viscosity"),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Problem], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("kind", [Kovasznay, Beltrami])
def test_closed_forms_satisfy_the_equations(kind: type[Problem]) -> None:
    problem = kind(TWO if kind is Kovasznay else THREE)
    x = latin_hypercube(problem.box, 200, generator(0))
    d = differentiate(Exact(problem.solution), x, problem.coordinates, problem.derivatives, "nested")
    assert max(float(residual.detach().abs().max()) for residual in problem.residuals(d, x)) < 1e-12


@official
@pytest.mark.data
def test_exact_solutions_on_the_official_files() -> None:
    """What the exact solution scores there is the floor of ``mse_official``."""
    root = Path(os.environ["DECATHLON_TEST_DATA"])
    for name, expected, tolerance in (
        ("burgers", 1.577e-4, 1e-6),
        ("schrodinger", 0.0, 1e-8),
        ("ks", 4.3e-3, 1e-4),
        ("heat_multiscale", 3.2e-6, 1e-7),
    ):
        problem = PROBLEMS[name]()
        found = problem.official(root)
        assert found is not None
        x, fields = found
        exact = problem.solution(x) if name == "heat_multiscale" else problem.reference()
        assert float((exact - fields).square().mean()) == pytest.approx(expected, abs=tolerance)


@official
@pytest.mark.data
def test_split_step_agrees_with_the_official_file() -> None:
    with np.load(next(Path(os.environ["DECATHLON_TEST_DATA"]).glob("*/schrodinger_official.npz"))) as file:
        h = schrodinger_split_step(2 / np.cosh(file["x"]) + 0j, 10.0, list(file["t"]), math.pi / 2 / 4000)
        assert np.abs(h.T - (file["u"] + 1j * file["v"])).max() < 1e-6
    assert Kovasznay(TWO).official(Path(os.environ["DECATHLON_TEST_DATA"])) is None
