"""Conditions, and problems that are more than one residual and Dirichlet data: what their losses must be."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decathlon.equations import Derivatives, differentiate
from decathlon.equations.sampling import generator, grid, latin_hypercube, on_value, on_walls, outward
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.module import PINN
from decathlon.tasks.pinn.problems import (
    Beltrami,
    Condition,
    Dirichlet,
    Kovasznay,
    Measurements,
    Neumann,
    OperatorCondition,
    Periodic,
    Problem,
    Robin,
    Sample,
    Schrodinger,
)

BOX = ((0.0, 1.0), (0.0, 2.0))


class Given(nn.Module):
    """Stands in for a network: a function of the points."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.marker = function, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) + 0 * self.marker


def walls(n: int, random: torch.Generator) -> Tensor:
    return on_walls(BOX, [0, 1], n, random)


def inside(n: int, random: torch.Generator) -> Tensor:
    return latin_hypercube(BOX, n, random)


def loss_of(condition: Condition, function: Callable[[Tensor], Tensor], count: int = 60) -> float:
    network = Given(function)
    sample = condition.sample(count, generator(0))
    found = condition.loss(lambda x, wanted: differentiate(network, x, "xy", wanted), sample)
    return float(found.detach())


def wave(x: Tensor) -> Tensor:
    return torch.stack([torch.sin(x[:, 0]) * x[:, 1], torch.exp(x[:, 0] - x[:, 1])], dim=1)


def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """By x and by y of both fields."""
    e = torch.exp(x[:, 0] - x[:, 1])
    return torch.stack([torch.cos(x[:, 0]) * x[:, 1], e], 1), torch.stack([torch.sin(x[:, 0]), -e], 1)


def normal_slope(x: Tensor) -> Tensor:
    normal, (by_x, by_y) = outward(BOX, [0, 1])(x), slopes(x)
    return normal[:, :1] * by_x + normal[:, 1:] * by_y


def test_neumann_and_robin_vanish_on_the_solution_and_measure_the_distance_from_it() -> None:
    normal = outward(BOX, [0, 1])
    for shift in (0.0, 0.5):
        neumann = Neumann("flux", walls, lambda x, s=shift: normal_slope(x) + s, "xy", normal)
        robin = Robin("film", walls, lambda x, s=shift: 2 * wave(x) - 3 * normal_slope(x) + s, "xy", normal, 2.0, -3.0)
        assert loss_of(neumann, wave) == pytest.approx(shift**2, abs=1e-20)
        assert loss_of(robin, wave) == pytest.approx(shift**2, abs=1e-20)


def test_one_normal_for_all_points_and_chosen_fields() -> None:
    end = on_value(BOX, 0, 1.0)
    right = Neumann(
        "right", lambda n, r: latin_hypercube(end, n, r), lambda x: slopes(x)[0][:, 1] + 1, "x", (1.0,), [1]
    )
    assert loss_of(right, wave) == pytest.approx(1.0)
    some = Dirichlet("some", walls, lambda x: wave(x)[:, 1:] + 2, [1])
    assert loss_of(some, wave) == pytest.approx(4.0)
    x = inside(30, generator(1))
    assert loss_of(Measurements("data", x, wave(x)[:, 0], [0]), wave, 20) == pytest.approx(0.0, abs=1e-20)


def test_a_neumann_target_is_compared_with_the_slope_and_not_with_the_field() -> None:
    flat = Neumann("flat", walls, lambda x: 0 * x[:, :1], "xy", outward(BOX, [0, 1]))
    assert loss_of(flat, lambda x: 0 * x[:, :1] + 7) == 0
    assert loss_of(flat, lambda x: (x - torch.tensor([0.5, 1.0])).square().sum(1, keepdim=True)) > 1


def test_operator_conditions() -> None:
    """Free slip, u = 0 and dv/dx = 0: two expressions; a condition between two places; a whole field at once."""
    slip = OperatorCondition("slip", walls, lambda d, x: (d.value[0], d["x"][1]), ("x",))
    found = loss_of(slip, wave)
    x = walls(60, generator(0))
    assert found == pytest.approx(float(wave(x)[:, 0].square().mean() + slopes(x)[0][:, 1].square().mean()))

    def shifted(d: Derivatives, x: Tensor, evaluate: Any) -> Tensor:
        there = evaluate(x + torch.tensor([math.pi, 0.0], dtype=x.dtype), ("y",))
        return d["y"] + there["y"]

    assert loss_of(OperatorCondition("half a turn", inside, shifted, ("y",)), lambda x: wave(x)[:, :1]) < 1e-20
    assert loss_of(
        OperatorCondition("all", inside, lambda d, x: d["xx+yy"], ("xx+yy",)), lambda x: x**2
    ) == pytest.approx(4.0)


def test_normals_point_outwards() -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 0.3], [0.4, 2.0], [1.0, 2.0]])
    half = math.sqrt(0.5)
    expected = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [half, half]])
    assert torch.allclose(outward(BOX, [0, 1])(x), expected)
    assert torch.equal(outward(BOX, [0])(x[:2]), expected[:2, :1])
    with pytest.raises(ValueError, match="1 of 1 points lie on no wall"):
        outward(BOX, [0, 1])(torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Dirichlet("b", walls, lambda x: 0 * x[:, :1]), r"shape \(60, 1\): 2 fields at 60 points need \(60, 2\)"),
        (Dirichlet("b", walls, lambda x: 0 * x[:, 0]), "2 fields"),
        (Neumann("b", walls, lambda x: 0 * x[:, :1], "xy", outward(BOX, [0, 1])), "2 fields"),
        (Neumann("b", walls, wave, "x", (1.0, 0.0)), "'x' needs"),
        (OperatorCondition("b", walls, lambda d, x: d.value[0] - x[:, :1]), r"b: residual 1 has the shape \(60, 60\)"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(condition: Condition, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_of(condition, wave)


class Mixed(Problem):
    """Laplace's equation with one condition of every kind, made one loss by their mean."""

    coordinates, fields = "xy", ("u",)
    derivatives = ("xx+yy",)
    box = BOX
    together = "mean"

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        return (d["xx+yy"][0],)

    def conditions(self) -> list[Condition]:
        bottom, top = on_value(self.box, 1, 0.0), on_value(self.box, 1, 2.0)
        return [
            Dirichlet("bottom", lambda n, random: latin_hypercube(bottom, n, random), lambda x: 0 * x[:, :1]),
            Neumann("top", lambda n, r: latin_hypercube(top, n, r), lambda x: 0 * x[:, :1] + 3, "y", (1.0,)),
            Periodic("sides", self.box, 0),
        ]

    def test_axes(self) -> tuple[Tensor, ...]:
        return torch.linspace(0, 1, 5), torch.linspace(0, 2, 5)


MIXED = {"pde": 10, "bottom": 20, "top": 30, "sides": 50}


def test_the_mean_of_conditions_of_every_kind_is_weighted_by_their_points() -> None:
    ramp = Given(lambda x: 0.5 * x[:, :1] + 2)
    each, all_in_one = (Mixed(MIXED, losses=losses).losses(ramp, 0, 0) for losses in (4, 2))
    parts = {name: float(each[name]()) for name in ("bottom", "top", "sides")}
    assert parts["top"] == pytest.approx(9.0) and parts["sides"] == pytest.approx(0.25)
    expected = (20 * parts["bottom"] + 30 * parts["top"] + 50 * parts["sides"]) / 100
    assert float(all_in_one["data"]()) == pytest.approx(expected)


def test_the_mean_of_dirichlet_conditions_is_one_mean_over_their_points() -> None:
    problem = Beltrami({"pde": 10, "boundary": 30, "initial": 10})
    network = Given(lambda x: x.sin())
    separate = Beltrami({"pde": 10, "boundary": 30, "initial": 10}, losses=3).losses(network, 0, 0)
    expected = (30 * float(separate["boundary"]()) + 10 * float(separate["initial"]())) / 40
    assert float(problem.losses(network, 0, 0)["data"]()) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "points"), [
    (Kovasznay, {"pde": 30, "boundary": 20}),
    (Beltrami, {"pde": 30, "boundary": 20, "initial": 20}),
    (Schrodinger, {"pde": 30, "boundary": 20, "initial": 20}),
])  # fmt: skip
def test_a_loss_for_each_equation(kind: type[Problem], points: dict[str, int]) -> None:
    conditions = list(points)[1:]
    names = [*kind.equations, *conditions]
    split, whole = kind(points, losses=len(names)), kind(points, losses=1 + len(conditions))
    torch.manual_seed(0)
    network = split.network(8, 2)
    found = {name: float(loss().detach()) for name, loss in split.losses(network, 0, 3).items()}
    expected = {name: float(loss().detach()) for name, loss in whole.losses(network, 0, 3).items()}
    assert list(found) == split.loss_names == names
    assert sum(found[name] for name in kind.equations) == pytest.approx(expected["pde"])
    assert {name: found[name] for name in conditions} == {name: expected[name] for name in conditions}
    with pytest.raises(ConfigError, match=f"or {len(names)}"):
        kind(points, losses=9)


def test_equations_are_as_many_as_residuals() -> None:
    class Wrong(Mixed):
        equations = ("first", "second")

    with pytest.raises(ValueError, match="1 residuals, but equations names 2"):
        Wrong(MIXED, losses=5).losses(Given(lambda x: x[:, :1]), 0, 0)["first"]()


def test_a_residual_of_the_wrong_shape_is_refused() -> None:
    class Broadcast(Mixed):
        def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
            return (d["xx+yy"][0] - x[:, :1],)

    with pytest.raises(ValueError, match=r"Broadcast: residual 1 has the shape \(10, 10\)"):
        Broadcast(MIXED).losses(Given(lambda x: x[:, :1]), 0, 0)["pde"]()


class Delay(Problem):
    """u'(t) = -u(t - pi/2), of which sin and cos are solutions; the history is prescribed."""

    coordinates, fields = "t", ("u",)
    derivatives = ("t",)
    box = ((0.0, 3.0),)

    def residuals(self, d: Derivatives, x: Tensor, evaluate: Any) -> Sequence[Tensor]:  # type: ignore[override]
        return (d["t"][0] + evaluate(x - math.pi / 2, ()).value[0],)

    def conditions(self) -> list[Condition]:
        past = ((-math.pi / 2, 0.0),)
        return [Dirichlet("history", lambda n, random: latin_hypercube(past, n, random), self.solution)]

    def test_axes(self) -> tuple[Tensor, ...]:
        return (torch.linspace(0, 3, 31, dtype=torch.float64),)

    def solution(self, x: Tensor) -> Tensor:
        return torch.cos(x)


def test_an_equation_that_is_not_local() -> None:
    problem = Delay({"pde": 40, "history": 20})
    assert all(float(loss().detach()) < 1e-20 for loss in problem.losses(Given(torch.cos), 0, 0).values())
    assert float(problem.losses(Given(lambda x: x), 0, 0)["pde"]().detach()) > 0.1


class Bar(Problem):
    """-u'' = pi^2 sin(pi x), u = 0 at both ends by construction: there are no conditions."""

    coordinates, fields = "x", ("u",)
    derivatives = ("xx",)
    box = ((0.0, 1.0),)

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        return (d["xx"][0] + math.pi**2 * torch.sin(math.pi * x[:, 0]),)

    def conditions(self) -> list[Condition]:
        return []

    def transform(self, x: Tensor, fields: Tensor) -> Tensor:
        return x * (1 - x) * fields

    def test_axes(self) -> tuple[Tensor, ...]:
        return (torch.linspace(0, 1, 21, dtype=torch.float64),)

    def solution(self, x: Tensor) -> Tensor:
        return torch.sin(math.pi * x)


def test_hard_constraints_hold_throughout_the_training() -> None:
    dataset = {
        "name": "bar",
        "problem": {"class": f"{__name__}.Bar", "points": {"pde": 30}, "losses": 1},
        "network": {"width": 12, "hidden": 2},
        "cosines_every": 0,
        "schedule": "constant",
    }
    torch.manual_seed(0)
    module = PINN({"class": "decathlon.tasks.pinn.LS"}, dataset, 1e-2, 1e-2, 120)
    points, exact = module.problem.test_points(), module.problem.reference()

    def error() -> float:
        return module.problem.errors(module.predict(points), exact)["mse"]

    before = error()
    for step in range(120):
        module.conflict_step(module.problem.losses(module.network, 0, step))
        if step % 40 == 0:
            assert not module.predict(points[[0, -1]]).any()
    assert error() < 0.05 * before


def test_the_taylor_engine_is_refused_where_it_cannot_be() -> None:
    spec = {"class": f"{__name__}.Bar", "points": {"pde": 4}, "losses": 1, "engine": "taylor"}
    with pytest.raises(ConfigError, match="to which nothing is attached; use engine=nested"):
        PINN({"class": "decathlon.tasks.pinn.LS"}, {"name": "bar", "problem": spec}, 1e-2, 1e-2, 10)


def test_two_conditions_of_one_name_are_refused() -> None:
    class Twice(Mixed):
        def conditions(self) -> list[Condition]:
            return [Periodic("sides", self.box, 0), Periodic("sides", self.box, 0, ("x",))]

    with pytest.raises(ConfigError, match="two conditions have one name"):
        Twice({"pde": 2, "sides": 2})


def test_a_condition_of_ones_own() -> None:
    class Mean(Condition):
        """The mean of u over the box is prescribed."""

        name = "mean"

        def sample(self, count: int, random: torch.Generator) -> Sample:
            return Sample(grid(torch.linspace(0, 1, 11), torch.linspace(0, 2, 11)))

        def loss(self, evaluate: Any, sample: Sample) -> Tensor:
            return (evaluate(sample.x, ()).value[0].mean() - 0.5).square()

    class WithMean(Mixed):
        def conditions(self) -> list[Condition]:
            return [*super().conditions(), Mean()]

    problem = WithMean({**MIXED, "mean": 2}, losses=5)
    assert float(problem.losses(Given(lambda x: x[:, :1]), 0, 0)["mean"]()) == pytest.approx(0.0, abs=1e-12)
    assert float(WithMean({**MIXED, "mean": 2}).losses(Given(lambda x: x[:, :1]), 0, 0)["data"]().detach()) > 0
