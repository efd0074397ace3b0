"""Distributions of observed values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from decathlon.tasks.jregnet.priors.tables import Table, inverted


class Empirical(Table):
    """Observed values of each bidder, one tensor each; the support begins at 0.

    The chance of a value seen once is spread evenly from the next lower one up to it. A value seen several times is an
    atom, with nothing between it and the next lower one: prices in a few steps stay such. Atoms are exact to one
    interval of the table, 1/4096.

    Raises:
        ValueError: in one line, a bidder without observations, or with values that are negative, not finite or all 0.
    """

    def __init__(self, observations: Sequence[Tensor]) -> None:
        rows = []
        for bidder, given in enumerate(observations):
            seen = torch.as_tensor(given).double().flatten()
            if not len(seen) or not bool((seen.isfinite() & (seen >= 0)).all()) or float(seen.max()) == 0:
                raise ValueError(f"bidder {bidder} needs finite observations, none negative and not all 0")
            rows.append(inverted(*_points(seen)))
        if not rows:
            raise ValueError("a prior needs at least one bidder, not 0")
        quantiles = torch.stack(rows)
        quantiles[:, 0] = 0.0  # below the lowest atom too
        super().__init__(quantiles)


def _points(seen: Tensor) -> tuple[Tensor, Tensor]:
    """(value, F) of the distribution function, joined by straight lines; an atom is a vertical one."""
    values, counts = seen.sort().values.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0).double() / len(seen)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    kept = torch.stack([counts > 1, torch.ones_like(counts, dtype=torch.bool)], 1).flatten()
    at, below = torch.stack([values, values], 1).flatten()[kept], torch.stack([starts, ends], 1).flatten()[kept]
    return torch.cat([at.new_zeros(1), at]), torch.cat([below.new_zeros(1), below])
