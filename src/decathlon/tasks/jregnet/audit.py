"""Audit of a mechanism: how much of its revenue is real, beside the exact optimum."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.jregnet import inputs
from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.mechanisms import best_welfare, optimal_revenue
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.regret import MAX_ROWS, exact_regret, with_prior


@dataclass(frozen=True)
class Audit:
    """Means over the audited profiles, in units of value x clicks; nan where values are correlated: no bound is known.

    Attributes:
        revenue: sum of payments under truthful bids.
        revenue_error: its standard error.
        welfare, best_welfare: value of the mechanism's allocation and of the best one.
        virtual_welfare: what the allocation would earn under exact incentive-compatible payments, E[sum phi_i g_i].
        opt: the optimal revenue on the same profiles.
        opt_upper: opt plus two standard errors of ``ic_excess``; a revenue above it is a leak, not chance.
        ic_excess: revenue - virtual_welfare, revenue that exists only because bidders are assumed not to react.
        ic_excess_error: its standard error.
        gap, alloc_gap: revenue / opt - 1 and virtual_welfare / opt - 1.
        regret: mean over profiles and bidders.
        regret_sum, regret_max: sum over bidders of the means, largest single one.
        regret_error: how far the mean regret may still be too low, see :class:`~.regret.Regret`.
        ir_violation: mean of relu(-u_i).
        bidder_revenue, bidder_regret, bidder_clicks, bidder_welfare: (n,) means per bidder.
    """

    revenue: float
    revenue_error: float
    welfare: float
    best_welfare: float
    virtual_welfare: float
    opt: float
    opt_upper: float
    ic_excess: float
    ic_excess_error: float
    gap: float
    alloc_gap: float
    regret: float
    regret_sum: float
    regret_max: float
    regret_error: float
    ir_violation: float
    bidder_revenue: Tensor
    bidder_regret: Tensor
    bidder_clicks: Tensor
    bidder_welfare: Tensor

    def scalars(self) -> dict[str, float]:
        """The numbers, without the tensors per bidder."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


@torch.no_grad()
def audit(
    mechanism: Callable[..., Any],
    auction: JointAuction,
    values: Any,
    prior: Prior,
    present: Any = None,
    regret_profiles: int | None = None,
    points: int = 101,
    beyond_support: bool = False,
) -> Audit:
    """Revenue, welfare, virtual welfare and exact regret of ``mechanism`` on the profiles ``values`` (B, n).

    Args:
        mechanism: called as ``mechanism(auction, bids, present=...)``; one that names a ``prior`` parameter gets it.
        values: a tensor, an array or nested lists.
        prior: the distribution the values come from; gives supports for the misreports, virtual values and the optimum.
        present: (B, E) bundles that exist in each profile; all by default.
        regret_profiles: regret is measured on the first so many profiles (default: all).
        points: size of the grid of misreports.
        beyond_support: whether values may lie outside of the prior's support, as those of a log may to whose other part
            the prior was fitted; their virtual value is that of the support's end.

    Raises:
        ValueError: in one line, values that no audit can be made of (there are none, nan, negative ones, another number
            of bidders, outside of the support), or an outcome that no auction has (more than there is sold, absent
            bundles sold, payments that are no numbers).
    """
    values, present = inputs.profiles(auction, values, prior, present, beyond_support)
    if regret_profiles is not None and regret_profiles < 1:
        raise ValueError(f"regret_profiles={regret_profiles} must be at least 1")
    mechanism = with_prior(mechanism, prior)
    clicks, payments = clicks_and_payments(mechanism, auction, values, present)
    exact = values.double()
    revenue = payments.sum(1)
    virtual = (prior.virtual(prior.clip(exact)) * clicks).sum(1)
    opt = float(optimal_revenue(auction, exact, prior, present).mean())
    excess = revenue - virtual
    part = slice(0, regret_profiles)
    there = None if present is None else present[part]
    found = exact_regret(mechanism, auction, values[part], prior, there, points, beyond_support=beyond_support)
    regret = found.regret.double()
    known = prior.independent
    nan = float("nan")
    return Audit(
        revenue=float(revenue.mean()),
        revenue_error=_error(revenue),
        welfare=float((exact * clicks).sum(1).mean()),
        best_welfare=float(best_welfare(auction, exact, present).mean()),
        virtual_welfare=float(virtual.mean()) if known else nan,
        opt=opt if known else nan,
        opt_upper=opt + 2 * _error(excess) if known else nan,
        ic_excess=float(excess.mean()) if known else nan,
        ic_excess_error=_error(excess) if known else nan,
        gap=_ratio(float(revenue.mean()), opt) if known else nan,
        alloc_gap=_ratio(float(virtual.mean()), opt) if known else nan,
        regret=float(regret.mean()),
        regret_sum=float(regret.mean(0).sum()),
        regret_max=float(regret.max()),
        regret_error=float(found.error.double().mean()),
        ir_violation=float((payments - exact * clicks).clamp_min(0).mean()),
        bidder_revenue=payments.mean(0),
        bidder_regret=regret.mean(0),
        bidder_clicks=clicks.mean(0),
        bidder_welfare=(exact * clicks).mean(0),
    )


def clicks_and_payments(
    mechanism: Callable[..., Any], auction: JointAuction, values: Tensor, present: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(B, n) float64 clicks and payments under truthful bids, computed in pieces of MAX_ROWS profiles."""
    clicks, payments = [], []
    for start in range(0, len(values), MAX_ROWS):
        piece = slice(start, start + MAX_ROWS)
        there = None if present is None else present[piece]
        outcome = mechanism(auction, values[piece], present=there)
        outcome = inputs.outcome(auction, outcome, len(values[piece]), there)
        clicks.append(auction.clicks(outcome.allocation).double())
        payments.append(outcome.payments.double())
    return torch.cat(clicks), torch.cat(payments)


def _error(samples: Tensor) -> float:
    return float(samples.std() / len(samples) ** 0.5) if len(samples) > 1 else float("nan")


def _ratio(achieved: float, bound: float) -> float:
    return achieved / bound - 1 if bound > 0 else float("nan")
