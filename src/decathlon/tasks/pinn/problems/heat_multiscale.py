"""Multi-scale heat equation, as in PINNacle: diffusion of very different strength along x and y."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from decathlon.equations import MLP, Derivatives
from decathlon.equations.sampling import latin_hypercube, on_value, on_walls
from decathlon.files import find
from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.problems.conditions import Condition, Dirichlet

DIFFUSION_X, DIFFUSION_Y = 1 / (500 * math.pi) ** 2, 1 / math.pi**2
RATE = (20 * math.pi) ** 2 * DIFFUSION_X + math.pi**2 * DIFFUSION_Y


class HeatMultiscale(Problem):
    """``u_t = u_xx/(500 pi)^2 + u_yy/pi^2``, ``u0 = sin(20 pi x) sin(pi y)``, zero on the boundary.

    These are the true second derivatives. The paper's code takes mixed ones along with them (its residual of the
    exact solution is not zero); that is not imitated.
    """

    coordinates, fields = "xyt", ("u",)
    derivatives = {"t": {"t": 1.0}, "diffusion": {"xx": DIFFUSION_X, "yy": DIFFUSION_Y}}
    box = ((0.0, 1.0), (0.0, 1.0), (0.0, 5.0))

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        return (d["t"][0] - d["diffusion"][0],)

    def conditions(self) -> list[Condition]:
        start = on_value(self.box, 2, 0.0)
        return [
            Dirichlet("boundary", lambda n, random: on_walls(self.box, [0, 1], n, random), lambda x: 0 * x[:, :1]),
            Dirichlet("initial", lambda n, random: latin_hypercube(start, n, random), self.solution),
        ]

    def network(self, width: int = 50, hidden: int = 5) -> nn.Module:
        return MLP(3, 1, width, hidden, output_bias=False, input_scale=(1.0, 1.0, 0.2))

    def test_axes(self) -> tuple[Tensor, ...]:
        x, y = (torch.linspace(0, 1, n, dtype=torch.float64) for n in (101, 21))
        return x, y, torch.arange(1, 6, dtype=torch.float64)

    def solution(self, x: Tensor) -> Tensor:
        shape = torch.sin(20 * math.pi * x[:, 0]) * torch.sin(math.pi * x[:, 1])
        return (shape * torch.exp(-RATE * x[:, 2]))[:, None]

    def official(self, root: Path) -> tuple[Tensor, Tensor] | None:
        """Finite elements on 12657 points at five times; the closed form scores 3.2e-6 on them."""
        path = find(root, ["heatms_official.npz"])
        if path is None:
            return None
        with np.load(path) as file:
            points = np.column_stack([file["x"], file["t"].reshape(-1)]).astype(np.float64)
            return torch.from_numpy(points), torch.from_numpy(file["u"].astype(np.float64)).reshape(-1, 1)
