"""Kuramoto-Sivashinsky equation, which is chaotic."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from decathlon.equations import MLP, Derivatives
from decathlon.equations.references import kuramoto_sivashinsky_etdrk4
from decathlon.equations.sampling import latin_hypercube, on_value
from decathlon.files import find
from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.problems.conditions import Condition, Dirichlet, Periodic

COEFFICIENTS = (100 / 16, 100 / 16**2, 100 / 16**4)


class KuramotoSivashinsky(Problem):
    """``u_t + a u u_x + b u_xx + c u_xxxx = 0``, ``u(x, 0) = cos x (1 + sin x)``; u and u_x are periodic in x."""

    coordinates, fields = "xt", ("u",)
    derivatives = ("x", "t", "xx", "xxxx")
    box = ((0.0, 2 * math.pi), (0.0, 1.0))

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        a, b, c = COEFFICIENTS
        return (d["t"][0] + a * d.value[0] * d["x"][0] + b * d["xx"][0] + c * d["xxxx"][0],)

    def conditions(self) -> list[Condition]:
        start = on_value(self.box, 1, 0.0)
        return [
            Periodic("boundary", self.box, 0, ("x",)),
            Dirichlet("initial", lambda n, random: latin_hypercube(start, n, random), _start),
        ]

    def network(self, width: int = 100, hidden: int = 6) -> nn.Module:
        return MLP(2, 1, width, hidden, output_bias=False)

    def test_axes(self) -> tuple[Tensor, ...]:
        x = 2 * math.pi * torch.arange(256, dtype=torch.float64) / 256
        return x, torch.arange(1, 201, dtype=torch.float64) / 200

    def reference(self) -> Tensor:
        x, t = self.test_axes()
        fine = 2 * math.pi * torch.arange(2 * len(x), dtype=torch.float64) / (2 * len(x))
        start = _start(fine[:, None])[:, 0].numpy()
        u = kuramoto_sivashinsky_etdrk4(start, 2 * math.pi, t.tolist(), 1e-4, COEFFICIENTS)[:, ::2]
        return torch.from_numpy(np.ascontiguousarray(u.T)).reshape(-1, 1)

    @property
    def reference_key(self) -> str | None:
        return "ks_etdrk4"

    def official(self, root: Path) -> tuple[Tensor, Tensor] | None:
        """The file is off by 0.97 at t = 1 (chaos): a converged solution scores 4.3e-3 on it."""
        path = find(root, ["ks_official.npz"])
        if path is None:
            return None
        with np.load(path) as file:
            return self.test_points(), torch.from_numpy(file["u"].T.astype(np.float64)).reshape(-1, 1)


def _start(x: Tensor) -> Tensor:
    return torch.cos(x[:, :1]) * (1 + torch.sin(x[:, :1]))
