"""Value distributions given by a quantile table, with ironed virtual values."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from decathlon.tasks.jregnet.priors.base import ROUNDING, Prior
from decathlon.tasks.jregnet.priors.ironing import concave_majorant

POINTS = 4096
TAIL = 4.0  # standard deviations above the mean that a normal distribution reaches


class Table(Prior):
    """Distributions given by their quantiles on an even grid.

    Args:
        quantiles: (n, Q + 1), F_i^{-1}(q / Q) for q = 0 … Q; non-decreasing in q, its ends are the support. A value
            that is repeated is an atom.

    With the revenue curve R(q) = q F^{-1}(1 - q), the ironed virtual value at v = F^{-1}(1 - q) is the slope of the
    least concave majorant of R. It is kept as a non-decreasing piecewise linear function, so that
    :meth:`inverse_virtual` inverts :meth:`virtual` exactly; at an atom it jumps, and the atom is the price of all
    scores in the jump.

    Raises:
        ValueError: in one line, quantiles that no distribution has.
    """

    def __init__(self, quantiles: Tensor) -> None:
        self.quantiles = torch.as_tensor(quantiles).double().contiguous()
        if self.quantiles.dim() != 2 or min(self.quantiles.shape) < 1 or self.quantiles.shape[1] < 2:
            raise ValueError(f"quantiles must be (bidders, two or more), not {tuple(self.quantiles.shape)}")
        good = self.quantiles.isfinite().all() & (self.quantiles >= 0).all() & (self.quantiles.diff(dim=1) >= 0).all()
        if not bool(good):
            raise ValueError("quantiles must have one non-decreasing row of finite numbers, none negative, per bidder")
        super().__init__(self.quantiles[:, 0], self.quantiles[:, -1])
        if bool((self.low >= self.high).any()):
            raise ValueError("a value distribution needs a support of positive length")
        intervals = self.quantiles.shape[1] - 1
        chances = torch.linspace(0, 1, intervals + 1, dtype=torch.float64)  # q = P(value >= v)
        known: dict[bytes, tuple[Tensor, ...]] = {}  # bidders often share one distribution
        rows = []
        for row in self.quantiles:
            key = row.numpy().tobytes()
            if key not in known:
                known[key] = _curve(row, concave_majorant(chances, chances * row.flip(0)).flip(0).cummax(0).values)
            rows.append(known[key])
        self.knots, self.slopes, self.prices = (_stacked(parts) for parts in zip(*rows))

    def quantile(self, levels: Tensor) -> Tensor:
        """Linear interpolation in the table."""
        table = self.quantiles.to(levels)
        place = levels * (table.shape[1] - 1)
        left = place.long().clamp(0, table.shape[1] - 2)
        flat, share = _bidders_first(left), _bidders_first(place - left.to(levels))
        low, high = table.gather(1, flat), table.gather(1, flat + 1)
        return _bidders_last(torch.lerp(low, high, share), levels)

    def virtual(self, values: Tensor) -> Tensor:
        return _interpolate(values, self.knots, self.slopes)

    def inverse_virtual(self, scores: Tensor) -> Tensor:
        slopes, low = self.slopes.to(scores.device), self.low.to(scores.device)
        inverse = _interpolate(scores.double(), slopes, self.prices)
        inverse = torch.where(scores <= slopes[:, 0], low, inverse)
        inverse = inverse.masked_fill(scores > slopes[:, -1], math.inf)
        return inverse.to(scores)

    def select(self, bidders: slice) -> Prior:
        chosen = Table(self.quantiles[bidders])
        chosen.independent = self.independent
        return chosen


def _curve(row: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The virtual value as a piecewise linear function: where its knots are, its heights, and their prices.

    One knot in the middle of each interval of the quantiles, at the height of its ``slopes``. At an atom x the function
    jumps up to the atom's slope and away from it: two knots before x and two behind, so close that a value rounded to
    float32 still counts as the atom; the price of all four is x.
    """
    flat = row[1:] == row[:-1]
    knots = (row[1:] + row[:-1]) / 2
    if not bool(flat.any()):
        return knots, slopes, knots
    below, above = row[:-1], row[1:]
    before = torch.nn.functional.pad(flat[:-1], (1, 0))  # the interval to the left is an atom
    after = torch.nn.functional.pad(flat[1:], (0, 1))
    first, last = flat & ~before, flat & ~after
    heights = slopes[:, None].expand(-1, 5)
    places = torch.stack(
        [below * (1 + 2 * ROUNDING), below * (1 - ROUNDING), knots, above * (1 + ROUNDING), above * (1 - 2 * ROUNDING)],
        1,
    )
    prices = torch.stack([below, below, knots, above, above], 1)
    rises = ~flat
    kept = torch.stack([rises & before, first, rises, last, rises & after], 1)
    return places[kept].cummax(0).values, heights[kept], prices[kept]


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths as one tensor: the last entry of the shorter ones is repeated."""
    longest = max(len(row) for row in rows)
    return torch.stack([torch.cat([row, row[-1:].expand(longest - len(row))]) for row in rows])


class Normal(Table):
    """N(mean, std^2) truncated to [low, high], and four standard deviations above the mean."""

    def __init__(self, bidders: int, mean: float = 0.5, std: float = 0.2, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(_truncated_normal(mean, std, low, high).repeat(bidders, 1))


class LogNormal(Table):
    """exp N(mu, sigma^2) truncated to [0, high], and exp(mu + 4 sigma)."""

    def __init__(self, bidders: int, mu: float = -1.0, sigma: float = 0.5, high: float = 1.0) -> None:
        if not high > 0:
            raise ValueError(f"a lognormal distribution needs high > 0, not {high:g}")
        row = _truncated_normal(mu, sigma, -math.inf, math.log(high)).exp()
        super().__init__(row.repeat(bidders, 1))


class TwoPeaks(Table):
    """A mixture of normals truncated to [0, high]: irregular, so that ironing matters."""

    def __init__(
        self,
        bidders: int,
        means: Sequence[float] = (0.25, 0.75),
        stds: Sequence[float] = (0.08, 0.08),
        weights: Sequence[float] = (0.5, 0.5),
        high: float = 1.0,
    ) -> None:
        if not len(means) == len(stds) == len(weights):
            raise ValueError("means, stds and weights must have the same length")
        if not (high > 0 and len(stds) and min(stds) > 0 and min(weights) > 0):
            raise ValueError("a mixture of normal distributions needs positive stds, weights and high")
        grid = torch.linspace(0, high, 8 * POINTS + 1, dtype=torch.float64)
        below = torch.zeros_like(grid)
        for mean, std, weight in zip(means, stds, weights):
            below += weight * torch.special.ndtr((grid - mean) / std)
        below = (below - below[0]) / (below[-1] - below[0])
        super().__init__(inverted(grid, below).repeat(bidders, 1))


def inverted(values: Tensor, cdf: Tensor) -> Tensor:
    """F^{-1} on the even grid, from points (values, cdf) joined by straight lines."""
    levels = torch.linspace(0, 1, POINTS + 1, dtype=torch.float64)
    right = torch.searchsorted(cdf.contiguous(), levels).clamp(1, len(cdf) - 1)
    low, high = cdf[right - 1], cdf[right]
    share = torch.where(high > low, (levels - low) / (high - low), torch.ones_like(low)).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], share)


def _truncated_normal(mean: float, std: float, low: float, high: float) -> Tensor:
    if not (std > 0 and low < high and math.isfinite(mean)):
        raise ValueError("a truncated normal distribution needs std > 0 and low < high")
    # The table's last interval would carry its share of a tail far longer than the distribution has.
    high = min(high, mean + TAIL * std)
    if low >= high:
        raise ValueError(f"a normal distribution around {mean:g} has nothing above low={low:g}")
    ends = torch.special.ndtr((torch.tensor([low, high], dtype=torch.float64) - mean) / std)
    levels = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, POINTS + 1, dtype=torch.float64))
    return (mean + std * torch.special.ndtri(levels)).clamp(low, high)


def _bidders_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 0).reshape(x.shape[-1], -1).contiguous()


def _bidders_last(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(like.shape[-1], *like.shape[:-1]).movedim(0, -1)


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through (xs, ys), rows per bidder, constant outside; x (..., n), on whose device it is done."""
    flat = _bidders_first(x).double()
    xs, ys = xs.to(x.device), ys.to(x.device)
    right = torch.searchsorted(xs, flat).clamp(1, xs.shape[1] - 1)
    x0, x1 = xs.gather(1, right - 1), xs.gather(1, right)
    y0, y1 = ys.gather(1, right - 1), ys.gather(1, right)
    share = torch.where(x1 > x0, (flat - x0) / (x1 - x0), torch.ones_like(x0)).clamp(0, 1)
    return _bidders_last(torch.lerp(y0, y1, share), x).to(x)
