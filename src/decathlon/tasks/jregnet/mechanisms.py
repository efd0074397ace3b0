"""The analytic mechanisms: VCG, RVCG with and without reserve, the exact optimum, and the stores-only auctions.

All compute in float64 and return the dtype of the bids (float64 for whole numbers). Each can be used as a
:class:`~.auction.Mechanism`. Bids that are no (B, n) finite, non-negative numbers raise a ValueError of one line.
"""

import torch
from torch import Tensor

from decathlon.tasks.jregnet.auction import JointAuction, Outcome
from decathlon.tasks.jregnet.inputs import exact_bids
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.scores import (
    allocate,
    best,
    bundle_scores,
    pivot_payments,
    rivals,
    score_auction,
    thresholds,
)


def vcg(auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
    """Vickrey-Clarke-Groves with the pivot of an absent bidder.

    A bidder that stays away takes its bundles with it and so hurts its partners: payments, and the revenue, can be
    negative. Truthful and individually rational.
    """
    exact = exact_bids(auction, bids)
    allocation = allocate(auction, bundle_scores(auction, exact, 0.0, present))
    return _like(bids, allocation, pivot_payments(auction, exact, allocation, True, present))


def rvcg(auction: JointAuction, bids: Tensor, present: Tensor | None = None, reserve: float = 0.0) -> Outcome:
    """Revised VCG (reconstructed): the pivot is a zero bid, so nobody is paid; payments are critical values.

    ``reserve`` is the least declared value of a bundle that can win.
    """
    if not reserve >= 0:
        raise ValueError(f"reserve={reserve} must be a number from 0 on")
    exact = exact_bids(auction, bids)
    outcome = score_auction(auction, exact, lambda scores: scores, 0.0, -reserve, present)
    return _like(bids, outcome.allocation, outcome.payments)


def optimal(auction: JointAuction, bids: Tensor, prior: Prior, present: Tensor | None = None) -> Outcome:
    """The revenue optimum (Myerson 1981): slots go to the best positive bundle virtual values.

    The model has one parameter per bidder (value times clicks), so for independent values this is the best of all
    Bayesian incentive-compatible mechanisms with interim individual rationality, multi-slot included. A bid outside
    of its bidder's support counts as the support's end.
    """
    if prior.bidders != auction.bidders:
        raise ValueError(f"the prior has {prior.bidders} bidders, the auction {auction.bidders}")
    exact = prior.clip(exact_bids(auction, bids))
    unit = prior.high.max().to(exact)
    outcome = score_auction(auction, prior.virtual(exact), prior.inverse_virtual, prior.low, 0.0, present, unit)
    return _like(bids, outcome.allocation, outcome.payments)


def optimal_revenue(auction: JointAuction, values: Tensor, prior: Prior, present: Tensor | None = None) -> Tensor:
    """(B,) best virtual welfare ``sum_k a_k max(0, C_(k)(v))``; its mean is the optimal revenue OPT."""
    exact = prior.clip(exact_bids(auction, values))
    scores = bundle_scores(auction, prior.virtual(exact), 0.0, present, prior.high.max().to(exact))
    return best(scores, auction.slots) @ auction.click_rates.to(scores)


def best_welfare(auction: JointAuction, values: Tensor, present: Tensor | None = None) -> Tensor:
    """(B,) welfare of the best allocation, ``sum_k a_k S_(k)(v)`` over bundle values S."""
    exact = exact_bids(auction, values)
    return best(bundle_scores(auction, exact, 0.0, present), auction.slots) @ auction.click_rates.to(exact)


def best_reserve(auction: JointAuction, values: Tensor, present: Tensor | None = None) -> float:
    """The reserve R with the largest mean revenue on the profiles ``values``: 41 points, then 21 around the best.

    Give it a sample of its own, not the one on which the mechanism is judged.
    """
    exact = exact_bids(auction, values)
    if not len(exact):
        raise ValueError("a reserve is chosen on at least one profile, not 0")
    scores = bundle_scores(auction, exact, 0.0, present)
    partners, others = rivals(auction, exact, scores)
    steps = auction.rate_steps.to(exact)

    def revenue(reserve: float) -> float:
        """Every score moves by the same reserve, so that nothing is sorted anew."""
        floored = (others - reserve).clamp_min(0.0)
        critical, possible = thresholds(auction, partners - reserve, floored, lambda score: score, 0.0)
        paid = critical.where(possible & (critical <= exact[:, None, None]), critical.new_zeros(()))
        return float((paid.sum((1, 3)) @ steps).mean())

    high = float(scores.max())
    coarse = torch.linspace(0, high, 41, dtype=torch.float64).tolist()
    start = max(coarse, key=revenue)
    fine = [start + (step - 10) / 10 * high / 40 for step in range(21)]
    return max((reserve for reserve in fine if reserve >= 0), key=revenue)


def gsp(auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
    """Generalised second price among single bidders: slot k pays the next bid per click. Not truthful."""
    if any(len(members) != 1 for members in auction.members):
        raise ValueError("GSP sells to single bidders; use auction.traditional()")
    scores = bundle_scores(auction, exact_bids(auction, bids), 0.0, present)
    allocation = allocate(auction, scores)
    following = best(scores, auction.slots + 1)[:, 1:] * auction.click_rates.to(scores)
    return _like(bids, allocation, (allocation @ following[:, :, None]).squeeze(2) @ auction.incidence.to(scores))


def _like(bids: Tensor, allocation: Tensor, payments: Tensor) -> Outcome:
    if not (isinstance(bids, Tensor) and bids.is_floating_point()):
        return Outcome(allocation, payments)
    return Outcome(allocation.to(bids), payments.to(bids))
