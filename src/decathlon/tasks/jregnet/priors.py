"""Value distributions, one per bidder: sampling, virtual values, and their inverses.

``phi(v) = v - (1 - F(v)) / f(v)`` (Myerson 1981), ironed where it is not monotone. The bidder is always the last axis.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

Numbers = float | Sequence[float] | Tensor
ROUNDING = 1e-7  # relative, above that of float32


class Prior(ABC):
    """Value distributions of n bidders.

    Attributes:
        low, high: (n,) float64, the support of each bidder; misreports are searched inside it.
        independent: whether the values are independent; only then is the Myerson optimum a bound. It may be set on an
            instance; :meth:`select` carries it over.
    """

    independent = True

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high

    @property
    def bidders(self) -> int:
        """Number of bidders."""
        return len(self.low)

    @abstractmethod
    def quantile(self, levels: Tensor) -> Tensor:
        """F_i^{-1}(levels), (..., n) -> (..., n)."""

    @abstractmethod
    def virtual(self, values: Tensor) -> Tensor:
        """Ironed virtual values phi_i(values), (..., n) -> (..., n)."""

    @abstractmethod
    def inverse_virtual(self, scores: Tensor) -> Tensor:
        """inf{v in the support: phi_i(v) >= scores}, (..., n) -> (..., n); infinite above phi_i(high)."""

    @abstractmethod
    def select(self, bidders: slice) -> "Prior":
        """The prior of some of the bidders."""

    def transform(self, uniforms: Tensor) -> Tensor:
        """Turn independent U[0,1] draws (..., n) into a profile of values."""
        return self.quantile(uniforms)

    def sample(self, samples: int, generator: Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw (samples, n) value profiles."""
        return self.transform(torch.rand(samples, self.bidders, generator=generator, dtype=dtype))


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
        if bool((self.parameters["low"] >= self.parameters["high"]).any() | (self.parameters["low"] < 0).any()):
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


class Product(Prior):
    """Independent bidders from several priors, side by side: ``Product(Uniform(2), Uniform(2, high=2))``."""

    def __init__(self, *parts: Prior) -> None:
        if not parts:
            raise ValueError("a product of priors needs at least one part")
        super().__init__(torch.cat([part.low for part in parts]), torch.cat([part.high for part in parts]))
        self.parts = parts
        self.independent = all(part.independent for part in parts)
        self._sizes = [part.bidders for part in parts]

    def quantile(self, levels: Tensor) -> Tensor:
        return torch.cat([p.quantile(x) for p, x in zip(self.parts, levels.split(self._sizes, -1))], -1)

    def virtual(self, values: Tensor) -> Tensor:
        return torch.cat([p.virtual(x) for p, x in zip(self.parts, values.split(self._sizes, -1))], -1)

    def inverse_virtual(self, scores: Tensor) -> Tensor:
        return torch.cat([p.inverse_virtual(x) for p, x in zip(self.parts, scores.split(self._sizes, -1))], -1)

    def transform(self, uniforms: Tensor) -> Tensor:
        return torch.cat([p.transform(x) for p, x in zip(self.parts, uniforms.split(self._sizes, -1))], -1)

    def select(self, bidders: slice) -> Prior:
        chosen, start = [], 0
        wanted = range(self.bidders)[bidders]
        for part, size in zip(self.parts, self._sizes):
            inside = [number - start for number in wanted if start <= number < start + size]
            if inside:
                chosen.append(part.select(slice(inside[0], inside[-1] + 1)))
            start += size
        selected = Product(*chosen)
        if self.independent != all(part.independent for part in self.parts):  # declared for the whole
            selected.independent = self.independent
        return selected


class Copula(Prior):
    """The marginals of ``prior`` joined by a Gaussian copula with one ``correlation`` between any two bidders.

    Virtual values are those of the marginals. Values are not independent, so the optimum computed from them is a
    mechanism like any other and no bound (``independent`` is False).
    """

    independent = False

    def __init__(self, prior: Prior, correlation: float) -> None:
        if not 0.0 <= correlation < 1.0:
            raise ValueError(f"correlation={correlation} must lie in [0, 1)")
        super().__init__(prior.low, prior.high)
        self.prior, self.correlation = prior, correlation

    def quantile(self, levels: Tensor) -> Tensor:
        return self.prior.quantile(levels)

    def virtual(self, values: Tensor) -> Tensor:
        return self.prior.virtual(values)

    def inverse_virtual(self, scores: Tensor) -> Tensor:
        return self.prior.inverse_virtual(scores)

    def transform(self, uniforms: Tensor) -> Tensor:
        """Correlate the draws by a Cholesky factor of the equicorrelation matrix, then take quantiles."""
        n = self.bidders
        matrix = torch.full((n, n), self.correlation, dtype=torch.float64)
        factor = torch.linalg.cholesky(matrix.fill_diagonal_(1.0)).to(uniforms)
        normals = torch.special.ndtri(uniforms.clamp(1e-7, 1 - 1e-7))
        return self.prior.quantile(torch.special.ndtr(normals @ factor.T))

    def select(self, bidders: slice) -> Prior:
        return Copula(self.prior.select(bidders), self.correlation)


def _column(value: Numbers, bidders: int, name: str) -> Tensor:
    column = torch.as_tensor(value, dtype=torch.float64).flatten()
    if len(column) not in (1, bidders):
        raise ValueError(f"{name} needs one number, or one for each of the {bidders} bidders, not {len(column)}")
    return column.expand(bidders).clone()


def _positive(parameters: dict[str, Tensor], *names: str) -> None:
    for name in names:
        if bool((parameters[name] <= 0).any()):
            raise ValueError(f"{name} must be positive")
