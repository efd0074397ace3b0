"""Burgers' equation ``u_t + u u_x = nu u_xx`` with a forming shock; forward, and with nu unknown."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decathlon.equations import Derivatives
from decathlon.equations.references import burgers_cole_hopf
from decathlon.equations.sampling import generator, latin_hypercube, on_value, on_walls
from decathlon.errors import ConfigError
from decathlon.files import find
from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.problems.conditions import Condition, Dirichlet, Measurements

VISCOSITY = 0.01 / math.pi


class Burgers(Problem):
    """``u(x, 0) = -sin(pi x)``, ``u(+-1, t) = 0``; exact solution by the Cole-Hopf transformation."""

    coordinates, fields = "xt", ("u",)
    derivatives = ("x", "t", "xx")
    box = ((-1.0, 1.0), (0.0, 1.0))
    together = "mean"
    viscosity: float | Tensor = VISCOSITY

    def residuals(self, d: Derivatives, x: Tensor) -> Sequence[Tensor]:
        return (d["t"][0] + d.value[0] * d["x"][0] - self.viscosity * d["xx"][0],)

    def conditions(self) -> list[Condition]:
        start = on_value(self.box, 1, 0.0)
        return [
            Dirichlet("boundary", lambda n, random: on_walls(self.box, [0], n, random), lambda x: 0 * x[:, :1]),
            Dirichlet("initial", lambda n, random: latin_hypercube(start, n, random), _start),
        ]

    def test_axes(self) -> tuple[Tensor, ...]:
        cells = torch.arange(256, dtype=torch.float64)
        return -1 + (cells + 0.5) / 128, torch.linspace(0, 1, 100, dtype=torch.float64)

    def solution(self, x: Tensor) -> Tensor:
        return burgers_cole_hopf(x[:, :1].double(), x[:, 1:].double(), VISCOSITY)

    @property
    def reference_key(self) -> str | None:
        return "burgers_cole_hopf"

    def official(self, root: Path) -> tuple[Tensor, Tensor] | None:
        """The file's frames at their nominal times; it is inaccurate: the exact solution scores 1.577e-4 on it."""
        path = find(root, ["burgers_official.npz"])
        if path is None:
            return None
        with np.load(path) as file:
            return self.test_points(), torch.from_numpy(file["u"].T.astype(np.float64)).reshape(-1, 1)


class BurgersInverse(Burgers):
    """Find nu from noisy measurements of u; the equation's loss alone depends on it. No boundary or initial loss.

    Args:
        measurements: ``count`` points (a Latin hypercube), ``noise`` (standard deviation), ``seed`` of both.
        guess: initial value of nu; its logarithm is learned.
    """

    def __init__(
        self,
        points: Mapping[str, int],
        measurements: Mapping[str, Any],
        guess: float = 0.05,
        losses: int = 2,
        engine: str = "auto",
    ) -> None:
        if guess <= 0:
            raise ConfigError(f"guess={guess} must be positive: it is a viscosity")
        self.measurements = dict(measurements)
        super().__init__(points, losses, engine)
        self.log_viscosity = nn.Parameter(torch.tensor(math.log(guess)))

    @property
    def viscosity(self) -> Tensor:  # type: ignore[override]
        """The current estimate."""
        return self.log_viscosity.exp()

    def conditions(self) -> list[Condition]:
        random = generator(int(self.measurements["seed"]))
        x = latin_hypercube(self.box, int(self.measurements["count"]), random)
        noise = torch.randn(len(x), 1, dtype=torch.float64, generator=random)
        return [Measurements("data", x, self.solution(x) + float(self.measurements["noise"]) * noise)]

    def unknowns(self) -> dict[str, float]:
        estimate = float(self.viscosity.detach())
        return {"viscosity": estimate, "viscosity_error": abs(estimate / VISCOSITY - 1)}


def _start(x: Tensor) -> Tensor:
    return -torch.sin(math.pi * x[:, :1])
