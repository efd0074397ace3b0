"""Poisson's equation in five dimensions."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from decathlon.equations import MLP, Derivatives
from decathlon.equations.sampling import on_walls
from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.problems.conditions import Condition, Dirichlet


class Poisson5D(Problem):
    """``-Lap u = (pi^2/4) sum sin(pi x_i/2)``, exact ``u = sum sin(pi x_i/2)``, which is given on the boundary.

    The true Laplacian: the paper's code adds mixed derivatives to it, which is not imitated.

    Args:
        low: the box is ``[low, 1]^5``; the paper's configuration trains on [-0.5, 1]^5 and tests inside [0, 1]^5.
    """

    coordinates, fields = "abcde", ("u",)
    derivatives = ("aa+bb+cc+dd+ee",)

    def __init__(self, points: Mapping[str, int], losses: int = 2, engine: str = "auto", low: float = -0.5) -> None:
        self.box = ((float(low), 1.0),) * 5
        super().__init__(points, losses, engine)

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        source = math.pi**2 / 4 * torch.sin(math.pi / 2 * x).sum(1)
        return (d["aa+bb+cc+dd+ee"][0] + source,)

    def conditions(self) -> list[Condition]:
        walls = list(range(5))
        return [Dirichlet("boundary", lambda n, random: on_walls(self.box, walls, n, random), self.solution)]

    def network(self, width: int = 50, hidden: int = 5) -> nn.Module:
        return MLP(5, 1, width, hidden, output_bias=False)

    def test_axes(self) -> tuple[Tensor, ...]:
        return (torch.linspace(0, 1, 7, dtype=torch.float64)[1:-1],) * 5

    def solution(self, x: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * x).sum(1, keepdim=True)
