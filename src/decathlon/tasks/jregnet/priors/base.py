"""What a value distribution is to this task, and distributions made of others.

``phi(v) = v - (1 - F(v)) / f(v)`` (Myerson 1981), ironed where it is not monotone. The bidder is always the last axis.
"""

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

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

    def clip(self, values: Tensor) -> Tensor:
        """Values (..., n) outside of a bidder's support become its end."""
        return values.minimum(self.high.to(values)).maximum(self.low.to(values))

    def transform(self, uniforms: Tensor) -> Tensor:
        """Turn independent U[0,1] draws (..., n) into a profile of values."""
        return self.quantile(uniforms)

    def sample(self, samples: int, generator: Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw (samples, n) value profiles."""
        return self.transform(torch.rand(samples, self.bidders, generator=generator, dtype=dtype))


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
