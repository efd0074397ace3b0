"""Values that are a handful of prices."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from decathlon.tasks.jregnet.priors.base import ROUNDING, Prior
from decathlon.tasks.jregnet.priors.ironing import concave_majorant


class Discrete(Prior):
    """Every bidder has one of a few values: ``Discrete(4, [1, 2, 4], [0.5, 0.3, 0.2])``.

    The virtual value of the k-th lowest value is ``v_k - (v_{k+1} - v_k) (1 - F_k) / f_k``, ironed; between two values
    it is that of the lower one. :meth:`inverse_virtual` is the lowest *value that there is* whose virtual value reaches
    a score: a price between two values would lose revenue. For bidders of different kinds take a ``Product``.

    Args:
        bidders: n.
        values: the K >= 2 different values.
        chances: their probabilities, equal ones by default.

    Raises:
        ValueError: in one line, values or chances that no distribution has.
    """

    def __init__(self, bidders: int, values: Sequence[float] | Tensor, chances: Sequence[float] | None = None) -> None:
        if bidders < 1:
            raise ValueError(f"a prior needs at least one bidder, not {bidders}")
        atoms = torch.as_tensor(values, dtype=torch.float64).flatten()
        count = len(atoms)
        equal = [1 / max(count, 1)] * count
        shares = torch.as_tensor(equal if chances is None else chances, dtype=torch.float64)
        if count < 2 or len(atoms.unique()) < count or not bool((atoms.isfinite() & (atoms >= 0)).all()):
            raise ValueError("a discrete distribution needs at least two different finite values, none negative")
        if shares.shape != atoms.shape or not bool((shares > 0).all()) or abs(float(shares.sum()) - 1) > 1e-6:
            raise ValueError(f"a discrete distribution of {count} values needs {count} positive chances that sum to 1")
        atoms, order = atoms.sort()
        self.atoms, self.chances = atoms, shares[order]
        super().__init__(atoms[:1].expand(bidders).clone(), atoms[-1:].expand(bidders).clone())
        above = self.chances.flip(0).cumsum(0)  # P(value >= v), from the highest value down
        curve = torch.cat([torch.zeros(1).double(), above * atoms.flip(0)])
        slopes = concave_majorant(torch.cat([torch.zeros(1).double(), above]), curve)
        self.slopes = slopes.flip(0).cummax(0).values

    def quantile(self, levels: Tensor) -> Tensor:
        """The lowest value v with F(v) >= level."""
        reached = (1 - self.chances.flip(0).cumsum(0).flip(0)[1:]).to(levels)  # F of all but the highest
        return self.atoms.to(levels)[torch.searchsorted(reached, levels.contiguous())]

    def virtual(self, values: Tensor) -> Tensor:
        starts = (self.atoms * (1 - ROUNDING)).to(values)  # a value rounded to float32 is still that value
        place = torch.searchsorted(starts, values.contiguous(), right=True) - 1
        return self.slopes.to(values)[place.clamp_min(0)]

    def inverse_virtual(self, scores: Tensor) -> Tensor:
        prices = torch.cat([self.atoms, torch.tensor([math.inf], dtype=torch.float64)]).to(scores)
        return prices[torch.searchsorted(self.slopes.to(scores), scores.contiguous())]

    def select(self, bidders: slice) -> Prior:
        chosen = Discrete(len(self.low[bidders]), self.atoms, self.chances.tolist())
        chosen.independent = self.independent
        return chosen
