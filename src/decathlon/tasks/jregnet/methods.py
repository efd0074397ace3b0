"""What a method is to the training loop: stacked runs that turn batches into losses and end as mechanisms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.randomness import generator
from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.mechanisms import best_reserve, gsp, optimal, rvcg, vcg
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.units import Units

RULES: dict[str, Callable[..., Any]] = {"vcg": vcg, "rvcg": rvcg, "rvcg_reserve": rvcg, "optimal": optimal, "gsp": gsp}


@dataclass
class Batch:
    """Training profiles of S stacked runs.

    Attributes:
        values: (S, n, B) true values, in the market's money.
        noise: (S, n, M, D) U[0,1] draws for the misreport search of each bidder in the D profiles in which it deviates.
        present: (S, E, B) bool, or None when all bundles exist.
        index: (S, B) places of the profiles in the fixed training set, or None for fresh ones.
    """

    values: Tensor
    noise: Tensor
    present: Tensor | None = None
    index: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """The batch where, and in which precision, the method computes."""
        there = [None if part is None else part.to(device) for part in (self.present, self.index)]
        return Batch(self.values.to(device, dtype), self.noise.to(device, dtype), *there)


class Method(nn.Module):
    """S runs of one method on one market.

    Args:
        auction, prior: the joint market.
        seeds: one seed per stacked run.
        bidders: ``both`` or ``stores``; with stores the method plays the traditional auction.

    Attributes:
        units: what networks see of the market's money; batches, losses' logs and mechanisms are in the market's own.
    """

    cap: Tensor
    trains = True
    noise = 0  # U[0,1] draws per bidder and profile that `losses` needs

    def __init__(self, auction: JointAuction, prior: Prior, seeds: Sequence[int], bidders: str = "both") -> None:
        super().__init__()
        if bidders not in ("both", "stores"):
            raise ValueError(f"method.bidders={bidders} is unknown; choose both or stores")
        self.stores_only = bidders == "stores"
        self.seeds = list(seeds)
        if not self.seeds:
            raise ValueError("a method needs at least one seed")
        if prior.bidders != auction.bidders:
            raise ValueError(f"the prior has {prior.bidders} bidders, the auction {auction.bidders}")
        if self.stores_only and not auction.stores:
            raise ValueError("method.bidders=stores: this auction has no stores")
        if self.stores_only:
            prior = prior.select(slice(0, auction.stores))
            auction = auction.traditional()
        self.auction, self.prior, self.units = auction, prior, Units.of(prior)
        self.register_buffer("cap", float32(self.units.cap).squeeze(2), persistent=False)

    def own(self, values: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The values (B, n) and presence that this method sees: without brands when stores play alone."""
        return (values[:, : self.auction.stores], None) if self.stores_only else (values, present)

    def draws(self, batch_size: int) -> int:
        """D, in how many profiles of a batch each bidder deviates."""
        return batch_size

    def seen(self, values: Tensor) -> Tensor:
        """Values (S, n, B) of a batch as networks see them: capped, and in units of size one."""
        return values.minimum(self.cap) / self.units.scale

    def virtual(self, seen: Tensor) -> Tensor:
        """Virtual values of what :meth:`seen` returned, in the same units."""
        money = seen.transpose(1, 2) * self.units.scale
        return self.prior.virtual(money).transpose(1, 2) / self.units.scale

    def losses(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """(S,) losses in units of size one, to be summed, and (S,) numbers to log."""
        raise NotImplementedError

    def after_step(self, batch: Batch, step: int) -> None:
        """Called after the optimizer's step number ``step`` (from 1)."""

    def mechanism(self, place: int) -> Callable[..., Any]:
        """The mechanism of stacked run ``place`` as it is now."""
        raise NotImplementedError


class Fixed(Method):
    """A mechanism that needs no training; rvcg_reserve finds its reserve on a sample of its own.

    Args:
        rule: vcg, rvcg, rvcg_reserve, optimal or gsp.
        sample: the values and presence, for a seed, on which rvcg_reserve chooses; by default 10,000 draws.
    """

    trains = False

    def __init__(
        self,
        auction: JointAuction,
        prior: Prior,
        seeds: Sequence[int],
        rule: str,
        bidders: str = "both",
        sample: Callable[[int], tuple[Tensor, Tensor | None]] | None = None,
    ) -> None:
        super().__init__(auction, prior, seeds, bidders)
        if rule not in RULES:
            raise ValueError(f"method.rule={rule} is unknown; choose {', '.join(RULES)}")
        self.rule = rule
        self.sample = sample or (lambda seed: (self.prior.sample(10_000, generator("reserve", seed)), None))

    def mechanism(self, place: int) -> Callable[..., Any]:
        if self.rule == "rvcg_reserve":
            values, present = self.own(*self.sample(self.seeds[place]))
            return partial(rvcg, reserve=best_reserve(self.auction, values, present))
        if self.rule == "optimal":
            return partial(optimal, prior=self.prior)
        return RULES[self.rule]


def float32(numbers: Tensor) -> Tensor:
    """Column (n, 1, 1) of a per-bidder bound, in the precision of training."""
    return numbers.to(torch.float32)[:, None, None]
