"""Beltrami flow of Ethier and Steinman (1994): unsteady three-dimensional Navier-Stokes, Re = 1."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from decathlon.equations import Derivatives
from decathlon.equations.sampling import latin_hypercube, on_edges, on_value, on_walls
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.problems.conditions import Condition, Dirichlet


class Beltrami(Problem):
    """All the fields are prescribed at the start and on the boundary.

    Args:
        boundary: ``edges`` puts the boundary points on the twelve edges of the cube, as the paper's code does;
            ``faces`` on its faces.
    """

    coordinates, fields = "xyzt", ("u", "v", "w", "p")
    derivatives = ("x", "y", "z", "t", "xx+yy+zz")
    equations = ("momentum_x", "momentum_y", "momentum_z", "continuity")
    box = ((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0))
    together = "mean"

    def __init__(
        self, points: Mapping[str, int], losses: int = 2, engine: str = "auto", boundary: str = "edges"
    ) -> None:
        if boundary not in ("edges", "faces"):
            raise ConfigError(f"boundary={boundary}: choose edges or faces")
        self.boundary = boundary
        super().__init__(points, losses, engine)

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        u, v, w, _ = d.value
        by_x, by_y, by_z, by_t, laplacian = (d[name].unbind(0) for name in self.derivatives)
        pressure = by_x[3], by_y[3], by_z[3]
        momentum = [by_t[i] + u * by_x[i] + v * by_y[i] + w * by_z[i] + pressure[i] - laplacian[i] for i in range(3)]
        return *momentum, by_x[0] + by_y[1] + by_z[2]

    def conditions(self) -> list[Condition]:
        place = on_edges if self.boundary == "edges" else on_walls
        start = on_value(self.box, 3, 0.0)
        return [
            Dirichlet("boundary", lambda n, random: place(self.box, [0, 1, 2], n, random), self.solution),
            Dirichlet("initial", lambda n, random: latin_hypercube(start, n, random), self.solution),
        ]

    def test_axes(self) -> tuple[Tensor, ...]:
        sizes = (7, 7, 8, 5)
        return tuple(torch.linspace(low, high, n, dtype=torch.float64) for n, (low, high) in zip(sizes, self.box))

    def solution(self, x: Tensor) -> Tensor:
        """The closed form with a = d = 1."""
        first, second, third, t = x.unbind(1)
        ex, ey, ez = torch.exp(first), torch.exp(second), torch.exp(third)
        xy, yz, zx = first + second, second + third, third + first
        decay = torch.exp(-t)
        u = -(ex * torch.sin(yz) + ez * torch.cos(xy)) * decay
        v = -(ey * torch.sin(zx) + ex * torch.cos(yz)) * decay
        w = -(ez * torch.sin(xy) + ey * torch.cos(zx)) * decay
        squares = ex**2 + ey**2 + ez**2
        mixed = (
            torch.sin(xy) * torch.cos(zx) * ey * ez
            + torch.sin(yz) * torch.cos(xy) * ez * ex
            + torch.sin(zx) * torch.cos(yz) * ex * ey
        )
        return torch.stack([u, v, w, -0.5 * (squares + 2 * mixed) * decay**2], dim=1)
