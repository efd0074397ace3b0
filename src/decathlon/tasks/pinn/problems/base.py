"""What a problem is: an equation in a box, conditions, and a reference; and how its losses are made."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from decathlon.equations import MLP, Derivatives, Transformed, differentiate
from decathlon.equations.derivatives import ENGINES, Wanted, parse
from decathlon.equations.sampling import Box, generator, grid, latin_hypercube
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.problems.conditions import (
    Condition,
    Dirichlet,
    Evaluate,
    Measurements,
    Sample,
    residuals_of,
    squared_error,
)


class Problem(nn.Module):
    """A differential equation to be solved by a network; unknown coefficients of it are its parameters.

    A new one is a subclass with the class attributes, ``residuals``, ``conditions``, ``test_axes`` and ``solution``
    (or ``reference`` where the solution is a numerical one). Its losses are ``pde`` (sum over the equations of the
    mean squared residual) and the conditions: each its own (1 + conditions), or all conditions as one, ``data`` (2).
    With a loss for each equation too (equations + conditions), ``pde`` gives way to the names in ``equations``.

    Args:
        points: how many points each step draws, by loss: pde and the names of the conditions.
        losses: number of losses.
        engine: of the derivatives, see ``decathlon.equations.differentiate``.
    """

    coordinates: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    derivatives: ClassVar[Wanted]
    # Names of the equations, in the order of the residuals, if they are several.
    equations: ClassVar[tuple[str, ...]] = ("pde",)
    # How the conditions become one loss: their sum, or their mean, weighted by their numbers of points.
    together: ClassVar[str] = "sum"
    box: Box

    def __init__(self, points: Mapping[str, int], losses: int = 2, engine: str = "auto") -> None:
        super().__init__()
        self.points, self.engine = dict(points), engine
        self.data = self.conditions()
        names = ["pde", *[condition.name for condition in self.data]]
        if len(set(names)) < len(names):
            raise ConfigError(f"{type(self).__name__}: two conditions have one name among {', '.join(names[1:])}")
        if set(self.points) != set(names) or not all(count >= 2 for count in self.points.values()):
            raise ConfigError(f"points={dict(points)}: give at least 2 points to each of {', '.join(names)}")
        split = [*self.equations, *names[1:]]
        choices = {len(names): names, len(split): split}
        if len(names) > 1:
            choices.setdefault(2, ["pde", "data"])
        if losses not in choices:
            raise ConfigError(
                f"losses={losses}: {type(self).__name__.lower()} has {' or '.join(map(str, sorted(choices)))}"
            )
        if engine not in ENGINES:
            raise ConfigError(f"engine={engine} is unknown; choose {', '.join(ENGINES)}")
        try:
            parse(self.coordinates, self.derivatives)
        except ValueError as error:
            raise ConfigError(f"{type(self).__name__}.derivatives: {error}") from error
        if self.together not in ("sum", "mean"):
            raise ConfigError(f"together={self.together!r} of {type(self).__name__}: choose sum or mean")
        self.loss_names = choices[losses]

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        """Of every equation the residual (n,) at the points ``x`` (n, coordinates), float of any precision.

        A subclass may take a third argument, ``evaluate``: ``evaluate(points, names)`` gives the network's values and
        derivatives elsewhere, for delays, integrals and other equations that are not local.
        """
        raise NotImplementedError

    def conditions(self) -> list[Condition]:
        """The conditions besides the equation, one for each name."""
        raise NotImplementedError

    def test_axes(self) -> tuple[Tensor, ...]:
        """Coordinates of the grid on which the network is compared with the reference, one vector per axis."""
        raise NotImplementedError

    def test_points(self) -> Tensor:
        """The grid's points (n, coordinates), the last coordinate running fastest, float64."""
        return grid(*self.test_axes())

    def solution(self, x: Tensor) -> Tensor:
        """Exact fields (n, fields) at ``x`` (n, coordinates)."""
        raise NotImplementedError

    def reference(self) -> Tensor:
        """Fields (n, fields) at the test points, float64: exact, or numerical and converged."""
        return self.solution(self.test_points())

    @property
    def reference_key(self) -> str | None:
        """A name under which to keep a ``reference`` that is slow to compute; None: it is not worth keeping."""
        return None

    def official(self, root: Path) -> tuple[Tensor, Tensor] | None:
        """Points and fields of the reference file that the paper compared with, if there is one under ``root``."""
        return None

    def network(self, width: int = 50, hidden: int = 5) -> nn.Module:
        """A fresh network for this problem."""
        return MLP(len(self.coordinates), len(self.fields), width, hidden)

    def transform(self, x: Tensor, fields: Tensor) -> Tensor:
        """Fields (n, fields) made of the network's output at ``x``, so that conditions hold exactly; as they are here.

        ``x[:, :1] * (1 - x[:, :1]) * fields`` vanishes at 0 and 1, whatever the network says.
        """
        return fields

    def ansatz(self, **options: Any) -> nn.Module:
        """``network(**options)`` followed by ``transform``."""
        network = self.network(**options)
        unchanged = getattr(self.transform, "__func__", None) is Problem.transform
        return network if unchanged else Transformed(network, self.transform)

    def errors(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Metrics of a prediction (n, fields) by name: ``mse``, over points and fields, and ``mse_<field>``."""
        square = (prediction.double() - target.double()).square()
        found = {"mse": float(square.mean())}
        if len(self.fields) > 1:
            found |= {f"mse_{name}": float(value) for name, value in zip(self.fields, square.mean(0))}
        return found

    def unknowns(self) -> dict[str, float]:
        """Estimates of the unknown coefficients, and their relative errors; names of metrics."""
        return {}

    def losses(
        self, network: nn.Module, seed: int, step: int, rank: int = 0, world: int = 1
    ) -> dict[str, Callable[[], Tensor]]:
        """The losses of one step by name, as functions: points are drawn, and the network is run, when called.

        The points are a function of (seed, step, loss, rank), so it does not matter which losses are evaluated. Each
        of ``world`` processes draws its share of them.
        """

        def draws(number: int, name: str) -> tuple[int, torch.Generator]:
            return max(2, self.points[name] // world), generator(seed, step, number, rank)

        data = range(len(self.data))
        equations = self.loss_names[: len(self.loss_names) - len(data)]
        found: dict[str, Callable[[], Tensor]] = {}
        if self.loss_names[1:] == ["data"] and len(data) != 1:
            equations, groups = ["pde"], [list(data)]
        else:
            groups = [[number] for number in data]
        for name in equations:
            which = None if name == "pde" else self.equations.index(name)
            found[name] = partial(self._pde_loss, network, lambda: draws(0, "pde"), which)
        for name, numbers in zip(self.loss_names[len(equations) :], groups):
            named = [(self.data[number], 1 + number) for number in numbers]
            found[name] = partial(self._data_loss, network, named, draws)
        return found

    def _pde_loss(
        self, network: nn.Module, draw: Callable[[], tuple[int, torch.Generator]], which: int | None = None
    ) -> Tensor:
        """Sum over the equations of the mean squared residual, or that of one equation."""
        x = latin_hypercube(self.box, *draw()).to(next(network.parameters()))
        evaluate = self.evaluator(network)
        label = type(self).__name__
        residuals = residuals_of(self.residuals, evaluate(x, self.derivatives), x, evaluate, label)
        if which is None:
            return torch.stack([residual.square().mean() for residual in residuals]).sum()
        if len(residuals) != len(self.equations):
            raise ValueError(f"{label}: {len(residuals)} residuals, but equations names {len(self.equations)}")
        return residuals[which].square().mean()

    def _data_loss(
        self,
        network: nn.Module,
        conditions: list[tuple[Condition, int]],
        draws: Callable[[int, str], tuple[int, torch.Generator]],
    ) -> Tensor:
        """The loss of one condition, or of several as one."""
        like = next(network.parameters())
        samples = [condition.sample(*draws(number, condition.name)).to(like) for condition, number in conditions]
        evaluate = self.evaluator(network)
        if len(samples) == 1:
            return conditions[0][0].loss(evaluate, samples[0])
        if self.together == "mean":
            return _mean([condition for condition, _ in conditions], samples, evaluate)
        return torch.stack([each.loss(evaluate, sample) for (each, _), sample in zip(conditions, samples)]).sum()

    def evaluator(self, network: nn.Module) -> Evaluate:
        """The network and its derivatives as a function of points and names."""

        def evaluate(x: Tensor, wanted: Wanted) -> Derivatives:
            return differentiate(network, x, self.coordinates, wanted, self.engine)

        return evaluate


def _mean(conditions: Sequence[Condition], samples: Sequence[Sample], evaluate: Evaluate) -> Tensor:
    """The mean of the conditions' losses, weighted by their numbers of points.

    Where all of them prescribe all the fields that is one mean over all the points, for one pass of the network.
    """
    if all(type(each) in (Dirichlet, Measurements) and each.fields is None for each in conditions):  # type: ignore[attr-defined]
        x = torch.cat([sample.x for sample in samples])
        return squared_error(evaluate, Sample(x, torch.cat([s.target for s in samples if s.target is not None], dim=1)))
    weights = [each.weight(sample) for each, sample in zip(conditions, samples)]
    losses = [weight * each.loss(evaluate, sample) for weight, each, sample in zip(weights, conditions, samples)]
    return torch.stack(losses).sum() / sum(weights)
