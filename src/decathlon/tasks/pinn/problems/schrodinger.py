"""Focusing nonlinear Schroedinger equation ``i h_t + 0.5 h_xx + |h|^2 h = 0``, ``h = u + i v``."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decathlon.equations import Derivatives
from decathlon.equations.references import schrodinger_split_step
from decathlon.equations.sampling import latin_hypercube, on_value
from decathlon.files import find
from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.problems.conditions import Condition, Dirichlet, Periodic


class Schrodinger(Problem):
    """``h(x, 0) = 2 sech x``, periodic in x; that h_x is periodic too is no part of the loss, as in the paper."""

    coordinates, fields = "xt", ("u", "v")
    derivatives = ("t", "xx")
    equations = ("imaginary", "real")
    box = ((-5.0, 5.0), (0.0, math.pi / 2))

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        (u, v), (u_t, v_t), (u_xx, v_xx) = d.value, d["t"], d["xx"]
        square = u * u + v * v
        return u_t + 0.5 * v_xx + square * v, v_t - 0.5 * u_xx - square * u

    def conditions(self) -> list[Condition]:
        start = on_value(self.box, 1, 0.0)
        return [
            Periodic("boundary", self.box, 0),
            Dirichlet("initial", lambda n, random: latin_hypercube(start, n, random), _start),
        ]

    def test_axes(self) -> tuple[Tensor, ...]:
        x = -5 + 10 * torch.arange(256, dtype=torch.float64) / 256
        return x, torch.linspace(0, math.pi / 2, 201, dtype=torch.float64)

    def reference(self) -> Tensor:
        x, t = (axis.numpy() for axis in self.test_axes())
        fine = -5 + 10 * np.arange(2 * len(x)) / (2 * len(x))
        start = (2 / np.cosh(fine)).astype(np.complex128)
        h = schrodinger_split_step(start, 10.0, list(t), math.pi / 2 / 4000)[:, ::2].T.reshape(-1)
        return torch.from_numpy(np.stack([h.real, h.imag], axis=1))

    @property
    def reference_key(self) -> str | None:
        return "schrodinger_split_step"

    def errors(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Also ``mse_abs``, the mean squared error of abs(h)."""
        found = super().errors(prediction, target)
        ours, exact = (torch.linalg.vector_norm(fields.double(), dim=1) for fields in (prediction, target))
        return {**found, "mse_abs": float((ours - exact).square().mean())}

    def official(self, root: Path) -> tuple[Tensor, Tensor] | None:
        path = find(root, ["schrodinger_official.npz"])
        if path is None:
            return None
        with np.load(path) as file:
            fields = np.stack([file["u"].reshape(-1), file["v"].reshape(-1)], axis=1)
        return self.test_points(), torch.from_numpy(fields)


def _start(x: Tensor) -> Tensor:
    real = 2 / torch.cosh(x[:, :1])
    return torch.cat([real, torch.zeros_like(real)], dim=1)
