"""The money of a market in units that a network can be trained in, whatever the currency."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.tasks.jregnet.priors import Prior

CENTRAL = (0.05, 0.95)  # levels between which nine tenths of a bidder's values lie
REACH = 8.0  # caps: so many central ranges above the median


def spread(prior: Prior) -> Tensor:
    """(n,) float64: over what length a bidder's values vary, however long its support.

    The length of the support, but at most twice the range of the central nine tenths of the values (twice their size
    where those are all equal). It is the support's length for uniform and other short-tailed values.
    """
    length = prior.high - prior.low
    central = _central(prior)[1]
    return (2 * central).where(central > 0, length).minimum(length)


@dataclass(frozen=True)
class Units:
    """How a market's money becomes numbers of size one.

    Networks compute with ``min(bid, cap) / scale``, losses and multipliers count in ``scale``. So training is the same
    in any currency, and one outlier does not decide it. Values with a long tail (``spread`` shorter than the support)
    enter the first layer as ``log(1 + bid / knee) / 2``: evenly scaled, most of them lie so close together that the
    network hardly tells them apart, and it ends selling nothing.

    Attributes:
        scale: the power of two nearest, in ratio, to the mean over bidders of the 0.95 quantile; 1 for U[0, 1].
            Multiplying by it is exact: training at 1024 times the values gives the same bits, times 1024.
        cap: (n,) float64; a higher bid counts as the cap. Eight central ranges above the median, or the support's end.
        spread: (n,) float64, see :func:`spread`; the unit of the offsets at which misreports are searched.
        knee: (n,) float64 the median of each bidder with a long tail, infinite for the others; None without any.
    """

    scale: float
    cap: Tensor
    spread: Tensor
    knee: Tensor | None = None

    @classmethod
    def of(cls, prior: Prior) -> "Units":
        """The units of a market from the distributions of its values."""
        median, central, upper = _central(prior)
        size = float(upper.mean()) or float(prior.high.mean())  # where nearly all values are 0
        cap = (median + REACH * central).where(central > 0, prior.high).minimum(prior.high)
        varying = spread(prior)
        tail = varying < (prior.high - prior.low) * (1 - 1e-6)
        knee = median.where(median > 0, upper).where(tail & (upper > 0), torch.inf)
        return cls(2.0 ** round(math.log2(size)), cap, varying, knee if bool(knee.isfinite().any()) else None)

    @classmethod
    def plain(cls, bidders: int) -> "Units":
        """Money as it is, of size one already."""
        return cls(1.0, torch.full((bidders,), torch.inf, dtype=torch.float64), torch.ones(bidders).double())

    def bids(self, bids: Tensor) -> Tensor:
        """What a network computes with for bids (..., n)."""
        return bids.minimum(self.cap.to(bids)) / self.scale

    @property
    def network_knee(self) -> Tensor | None:
        """``knee`` in units of size one, as :class:`~.network.JRegNet` takes it."""
        return None if self.knee is None else self.knee / self.scale


def _central(prior: Prior) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) each: the median, the length of the central nine tenths, and their upper end."""
    levels = torch.tensor([*CENTRAL, 0.5], dtype=torch.float64)[:, None].expand(-1, prior.bidders)
    low, high, median = prior.quantile(levels.contiguous())
    return median, (high - low).where(high > low, high), high
