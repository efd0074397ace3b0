"""What a problem is: an equation in a box, conditions, and a reference; and how its losses are made."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from decathlon.equations import MLP, Derivatives, differentiate
from decathlon.equations.derivatives import Wanted
from decathlon.equations.sampling import Box, generator, grid, latin_hypercube
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.problems.conditions import Condition, Evaluate, Sample, squared_error


class Problem(nn.Module):
    """A differential equation to be solved by a network; unknown coefficients of it are its parameters.

    A new one is a subclass with the class attributes, ``residuals``, ``conditions``, ``test_axes`` and ``solution``
    (or ``reference`` where the solution is a numerical one). Its losses are ``pde`` (sum over the equations of the
    mean squared residual), and the conditions: each its own (``losses: 3``), or boundary and initial as one,
    ``data`` (``losses: 2``).

    Args:
        points: how many points each step draws, by loss: pde and the names of the conditions.
        losses: number of losses.
        engine: of the derivatives, see ``decathlon.equations.differentiate``.
    """

    coordinates: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    derivatives: ClassVar[Wanted]
    # How the conditions become one loss: their sum, or one mean over all their points.
    together: ClassVar[str] = "sum"
    box: Box

    def __init__(self, points: Mapping[str, int], losses: int = 2, engine: str = "auto") -> None:
        super().__init__()
        self.points, self.engine = dict(points), engine
        self.data = self.conditions()
        names = ["pde", *[condition.name for condition in self.data]]
        if set(self.points) != set(names) or not all(count >= 2 for count in self.points.values()):
            raise ConfigError(f"points={dict(points)}: give at least 2 points to each of {', '.join(names)}")
        if losses not in {2, len(names)}:
            choices = "2" if len(names) == 2 else f"2 or {len(names)}"
            raise ConfigError(f"losses={losses}: {type(self).__name__.lower()} has {choices}")
        self.loss_names = names if losses == len(names) else ["pde", "data"]

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        """Of every equation the residual (n,) at the points ``x`` (n, coordinates), float of any precision."""
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

        separate = len(self.loss_names) == 1 + len(self.data)
        groups = [[number] for number in range(len(self.data))] if separate else [list(range(len(self.data)))]
        found: dict[str, Callable[[], Tensor]] = {"pde": lambda: self._pde_loss(network, *draws(0, "pde"))}
        for name, numbers in zip(self.loss_names[1:], groups):
            named = [(self.data[number], 1 + number) for number in numbers]
            found[name] = partial(self._data_loss, network, named, draws)
        return found

    def _pde_loss(self, network: nn.Module, count: int, random: torch.Generator) -> Tensor:
        """Sum over the equations of the mean squared residual."""
        x = latin_hypercube(self.box, count, random).to(next(network.parameters()))
        d = differentiate(network, x, self.coordinates, self.derivatives, self.engine)
        return torch.stack([residual.square().mean() for residual in self.residuals(d, x)]).sum()

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
        if len(samples) > 1 and self.together == "mean":
            x = torch.cat([sample.x for sample in samples])
            target = torch.cat([sample.target for sample in samples if sample.target is not None], dim=1)
            return squared_error(evaluate, Sample(x, target))
        parts = [condition.loss(evaluate, sample) for (condition, _), sample in zip(conditions, samples)]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def evaluator(self, network: nn.Module) -> Evaluate:
        """The network and its derivatives as a function of points and names."""

        def evaluate(x: Tensor, wanted: Sequence[str]) -> Derivatives:
            return differentiate(network, x, self.coordinates, wanted, self.engine)

        return evaluate
