"""Families with closed forms."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from decathlon.tasks.jregnet.priors.base import ROUNDING, Prior

Numbers = float | Sequence[float] | Tensor


class _Parametric(Prior):
    """A family with closed forms; each parameter is one number or one per bidder."""

    def __init__(self, bidders: int, **parameters: Numbers) -> None:
        if bidders < 1:
            raise ValueError(f"a prior needs at least one bidder, not {bidders}")
        self.parameters = {name: _column(value, bidders, name) for name, value in parameters.items()}
        self._check()
        super().__init__(*self._support())

    def _check(self) -> None:
        """Raise ValueError for parameters that no distribution has."""

    @abstractmethod
    def _support(self) -> tuple[Tensor, Tensor]: ...

    def _get(self, name: str, like: Tensor) -> Tensor:
        return self.parameters[name].to(like)

    def select(self, bidders: slice) -> Prior:
        """The prior of some of the bidders."""
        low = self.low[bidders]
        chosen = type(self)(len(low), **{name: value[bidders] for name, value in self.parameters.items()})
        chosen.independent = self.independent
        return chosen


class Uniform(_Parametric):
    """U[low, high]: phi(v) = 2v - high."""

    def __init__(self, bidders: int, low: Numbers = 0.0, high: Numbers = 1.0) -> None:
        super().__init__(bidders, low=low, high=high)

    def _check(self) -> None:
        low, high = self.parameters["low"], self.parameters["high"]
        if not bool(((low >= 0) & (low < high) & high.isfinite()).all()):
            raise ValueError("a uniform distribution needs 0 <= low < high")

    def _support(self) -> tuple[Tensor, Tensor]:
        return self.parameters["low"], self.parameters["high"]

    def quantile(self, levels: Tensor) -> Tensor:
        low, high = self._get("low", levels), self._get("high", levels)
        return low + levels * (high - low)

    def virtual(self, values: Tensor) -> Tensor:
        return 2 * values - self._get("high", values)

    def inverse_virtual(self, scores: Tensor) -> Tensor:
        low, high = self._get("low", scores), self._get("high", scores)
        return ((scores + high) / 2).clamp_min(low).masked_fill(scores > high, math.inf)


class Exponential(_Parametric):
    """Exp(rate) with everything above ``cap`` set to ``cap``: phi(v) = v - 1/rate below the atom, ``cap`` at it."""

    def __init__(self, bidders: int, rate: Numbers = 2.0, cap: Numbers = 1.0) -> None:
        super().__init__(bidders, rate=rate, cap=cap)

    def _check(self) -> None:
        _positive(self.parameters, "rate", "cap")

    def _support(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.parameters["cap"]), self.parameters["cap"]

    def quantile(self, levels: Tensor) -> Tensor:
        draws = -torch.log1p(-levels) / self._get("rate", levels)
        return draws.minimum(self._get("cap", levels).expand_as(draws))

    def virtual(self, values: Tensor) -> Tensor:
        rate, cap = self._get("rate", values), self._get("cap", values)
        atom = (self.parameters["cap"] * (1 - ROUNDING)).to(values)  # a value drawn in float32 may lie below the cap
        return torch.where(values >= atom, cap, values - 1 / rate)

    def inverse_virtual(self, scores: Tensor) -> Tensor:
        rate, cap = self._get("rate", scores), self._get("cap", scores)
        inverse = (scores + 1 / rate).clamp_min(0.0).minimum(cap.expand_as(scores))
        return inverse.masked_fill(scores > cap, math.inf)


class TruncatedExponential(_Parametric):
    """Density proportional to exp(-rate v) on [0, high]: phi(v) = v - (1 - exp(-rate (high - v))) / rate."""

    def __init__(self, bidders: int, rate: Numbers = 2.0, high: Numbers = 1.0) -> None:
        super().__init__(bidders, rate=rate, high=high)

    def _check(self) -> None:
        _positive(self.parameters, "rate", "high")

    def _support(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.parameters["high"]), self.parameters["high"]

    def quantile(self, levels: Tensor) -> Tensor:
        rate, high = self._get("rate", levels), self._get("high", levels)
        return (-torch.log1p(levels * torch.expm1(-rate * high)) / rate).clamp(max=high)

    def virtual(self, values: Tensor) -> Tensor:
        rate, high = self._get("rate", values), self._get("high", values)
        return values + torch.expm1(-rate * (high - values)) / rate

    def inverse_virtual(self, scores: Tensor) -> Tensor:
        """Bisection: phi is strictly increasing but its inverse has no elementary form."""
        rate, high = self._get("rate", scores), self._get("high", scores)
        below, above = torch.zeros_like(scores), high.expand_as(scores).clone()
        for _ in range(60):
            middle = (below + above) / 2
            reached = middle + torch.expm1(-rate * (high - middle)) / rate >= scores
            below, above = torch.where(reached, below, middle), torch.where(reached, middle, above)
        return above.masked_fill(scores > high, math.inf)


def _column(value: Numbers, bidders: int, name: str) -> Tensor:
    column = torch.as_tensor(value, dtype=torch.float64).flatten()
    if len(column) not in (1, bidders):
        raise ValueError(f"{name} needs one number, or one for each of the {bidders} bidders, not {len(column)}")
    return column.expand(bidders).clone()


def _positive(parameters: dict[str, Tensor], *names: str) -> None:
    for name in names:
        if not bool((parameters[name] > 0).all() and parameters[name].isfinite().all()):
            raise ValueError(f"{name} must be positive and finite")
