"""What of a problem is to be found: a number with its start and bounds, or a whole history."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TRANSFORMS = ("free", "softplus", "bounded")


class Unknown:
    """A number that is to be found.

    Args:
        start: where the search begins.
        low, high: it lies between them. Solvers by least squares keep to them; networks do with ``bounded``.
        transform: how a network trains it: ``free`` (a plain scalar, as in the paper), ``softplus`` (positive, above
            ``low``), ``bounded`` (a sigmoid between ``low`` and ``high``).

    Raises:
        ValueError: bounds in the wrong order, a start outside of them, an unknown transform.
    """

    def __init__(
        self, start: float, low: float | None = None, high: float | None = None, transform: str = "free"
    ) -> None:
        self.start = float(start)
        self.low = None if low is None else float(low)
        self.high = None if high is None else float(high)
        self.transform = transform
        if not math.isfinite(self.start):
            raise ValueError(f"the start {start} of an unknown is not finite")
        if transform not in TRANSFORMS:
            raise ValueError(f"transform={transform} is unknown; choose {', '.join(TRANSFORMS)}")
        if transform == "bounded" and (low is None or high is None):
            raise ValueError("transform=bounded needs low and high")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low={low} must be below high={high}")
        below = self.low is not None and self.start < self.low
        if below or (self.high is not None and self.start > self.high):
            raise ValueError(f"the start {start} lies outside of the bounds {low} to {high}")

    def raw(self) -> float:
        """The trained scalar that stands for the start. A start on a bound is moved inside by a thousandth."""
        if self.transform == "free":
            return self.start
        low = self.low or 0.0
        if self.transform == "softplus":
            distance = max(self.start - low, 1e-3)
            return distance + math.log(-math.expm1(-distance))
        assert self.high is not None
        share = min(max((self.start - low) / (self.high - low), 1e-3), 1 - 1e-3)
        return math.log(share / (1 - share))

    def value(self, raw: Tensor) -> Tensor:
        """The number for a trained scalar."""
        if self.transform == "free":
            return raw
        low = self.low or 0.0
        if self.transform == "softplus":
            return low + torch.nn.functional.softplus(raw)
        assert self.high is not None
        return low + (self.high - low) * torch.sigmoid(raw)


@dataclass
class Slot:
    """One unknown scalar of a problem: its name, and whether it is a delay."""

    name: str
    unknown: Unknown
    delay: bool


class UnknownHistory:
    """A history that is to be found: a polynomial on ``[start - reach, start]``, by its values at Chebyshev points.

    Args:
        reach: how far back it is read at most (the longest delay that may come out).
        degree: of the polynomial; 0 is a constant.
        start: its first guess, one number or one for each unknown.
        size: n of a system; None: one unknown, without an axis of components.
    """

    def __init__(
        self, reach: float, degree: int = 3, start: float | Sequence[float] = 0.0, size: int | None = None
    ) -> None:
        if not reach > 0 or degree < 0:
            raise ValueError(f"reach={reach} must be positive and degree={degree} not negative")
        self.reach, self.degree, self.size = float(reach), int(degree), size
        guesses = [float(start)] * (size or 1) if isinstance(start, (int, float)) else [float(s) for s in start]
        if len(guesses) != (size or 1):
            raise ValueError(f"{len(guesses)} first guesses for {size or 1} unknowns")
        self.starts = [guess for guess in guesses for _ in range(self.degree + 1)]
        k = torch.arange(self.degree + 1, dtype=torch.float64)
        # The first point is the start of the interval, where the history is the initial value.
        self.points = torch.cos(math.pi * k / max(self.degree, 1))

    def evaluate(self, t: Tensor, start: float, coefficients: Tensor) -> Tensor:
        """Values (n, N) at times (N,) from the values at the Chebyshev points, (n (degree + 1),)."""
        x = 2 * (t - start) / self.reach + 1
        rows = coefficients.reshape(self.size or 1, self.degree + 1)
        columns = []
        for k, own in enumerate(self.points):
            others = torch.cat([self.points[:k], self.points[k + 1 :]])
            columns.append(((x[:, None] - others) / (own - others)).prod(dim=1))
        return rows @ torch.stack(columns)
