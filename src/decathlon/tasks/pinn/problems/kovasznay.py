"""Kovasznay flow: steady two-dimensional Navier-Stokes behind a grid, Re = 40."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from decathlon.equations import Derivatives
from decathlon.equations.sampling import on_walls
from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.problems.conditions import Condition, Dirichlet

REYNOLDS = 40.0


class Kovasznay(Problem):
    """Velocity and pressure on the boundary are those of the closed form of Kovasznay (1948)."""

    coordinates, fields = "xy", ("u", "v", "p")
    derivatives = ("x", "y", "xx+yy")
    equations = ("momentum_x", "momentum_y", "continuity")
    box = ((-0.5, 1.0), (-0.5, 1.5))

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        (u, v, _), (u_x, v_x, p_x), (u_y, v_y, p_y) = d.value, d["x"], d["y"]
        lap_u, lap_v, _ = d["xx+yy"]
        nu = 1 / REYNOLDS
        momentum_x = u * u_x + v * u_y + p_x - nu * lap_u
        momentum_y = u * v_x + v * v_y + p_y - nu * lap_v
        return momentum_x, momentum_y, u_x + v_y

    def conditions(self) -> list[Condition]:
        # The horizontal walls first: 428 and 572 of 1000 points, as in the paper's code.
        return [Dirichlet("boundary", lambda n, random: on_walls(self.box, [1, 0], n, random), self.solution)]

    def test_axes(self) -> tuple[Tensor, ...]:
        x = torch.linspace(-0.5, 1, 27, dtype=torch.float64)
        return x, torch.linspace(-0.5, 1.5, 37, dtype=torch.float64)

    def solution(self, x: Tensor) -> Tensor:
        rate = REYNOLDS / 2 - math.sqrt(REYNOLDS**2 / 4 + 4 * math.pi**2)
        decay, phase = torch.exp(rate * x[:, 0]), 2 * math.pi * x[:, 1]
        u = 1 - decay * torch.cos(phase)
        v = rate / (2 * math.pi) * decay * torch.sin(phase)
        return torch.stack([u, v, (1 - decay**2) / 2], dim=1)
