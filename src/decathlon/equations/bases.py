"""Bases on pieces of an interval: Chebyshev polynomials, and random tanh features (extreme learning machines)."""

import math
from typing import Protocol

import torch
from torch import Tensor

from decathlon.randomness import generator


class Basis(Protocol):
    """Functions on [-1, 1]."""

    size: int

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and derivatives (size, N) at ``x`` (N,), differentiable by ``x``."""


class Chebyshev:
    """Chebyshev polynomials up to a degree.

    Args:
        degree: at least 1.
    """

    def __init__(self, degree: int) -> None:
        if degree < 1:
            raise ValueError(f"degree={degree} must be at least 1")
        self.size = degree + 1

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # T_{k+1} = 2 x T_k - T_{k-1}, and T_k' = k U_{k-1} with the same recurrence for U from 1, 2x.
        first, second = [torch.ones_like(x), x], [torch.ones_like(x), 2 * x]
        for _ in range(self.size - 2):
            first.append(2 * x * first[-1] - first[-2])
            second.append(2 * x * second[-1] - second[-2])
        slopes = [torch.zeros_like(x)] + [k * second[k - 1] for k in range(1, self.size)]
        return torch.stack(first), torch.stack(slopes)


class RandomFeatures:
    """``tanh(a x + b)`` with fixed random a and b, and a constant: a network whose last layer alone is trained.

    Args:
        features: how many. spread: a and b are uniform on [-spread, spread].
        seed: of the draw.
    """

    def __init__(self, features: int, spread: float = 2.0, seed: int = 0) -> None:
        if features < 1 or not spread > 0:
            raise ValueError(f"features={features} must be at least 1 and spread={spread} positive")
        random = generator("features", seed)
        self.size = features + 1
        self.a, self.b = spread * (2 * torch.rand(2, features, 1, dtype=torch.float64, generator=random) - 1)

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.a * x + self.b)
        one = torch.ones_like(x)[None]
        return torch.cat([h, one]), torch.cat([self.a * (1 - h * h), 0 * one])


def chebyshev_roots(count: int) -> Tensor:
    """Roots of the Chebyshev polynomial of degree ``count``, ascending, inside (-1, 1)."""
    k = torch.arange(count, 0, -1, dtype=torch.float64)
    return torch.cos(math.pi * (k - 0.5) / count)


class Pieces:
    """A function (N,) -> (n, N) that is a combination of a basis on every piece of an interval.

    Args:
        edges: (W + 1,), ascending. coefficients: (W, n, size).
    """

    def __init__(self, basis: Basis, edges: Tensor, coefficients: Tensor) -> None:
        self.basis, self.edges, self.coefficients = basis, edges, coefficients

    def place(self, s: Tensor) -> Tensor:
        """The piece of each time, (N,)."""
        return (torch.searchsorted(self.edges, s.detach(), right=True) - 1).clamp(0, len(self.coefficients) - 1)

    def features(self, s: Tensor, piece: Tensor) -> tuple[Tensor, Tensor]:
        """The basis and its derivative by time, (size, N), at times ``s`` on the pieces ``piece``."""
        left, right = self.edges[piece], self.edges[piece + 1]
        values, slopes = self.basis.at((2 * s - left - right) / (right - left))
        return values, slopes * (2 / (right - left))

    def __call__(self, s: Tensor, derivative: bool = False) -> Tensor:
        piece = self.place(s)
        chosen = self.features(s, piece)[1 if derivative else 0]
        # (N, n, size) x (size, N)
        return torch.einsum("knj,jk->nk", self.coefficients[piece], chosen)
