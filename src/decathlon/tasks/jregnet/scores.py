"""Score auctions: slots go to the bundles with the best positive scores, bidders pay their critical values.

RVCG, RVCG with a reserve, the Myerson optimum and the affine maximiser differ in their scores only.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from decathlon.tasks.jregnet.auction import JointAuction, Outcome
from decathlon.tasks.jregnet.inputs import presence

TIE_BREAK = 1e-12


def bundle_scores(
    auction: JointAuction,
    scores: Tensor,
    boosts: Tensor | float = 0.0,
    present: Tensor | None = None,
    unit: Tensor | float | None = None,
) -> Tensor:
    """(B, E) score of each bundle: the sum of its members' scores (B, n) plus its boost; -inf where it is absent.

    An offset of 1e-12 ``unit`` per position makes the order of bundles strict, as if earlier bundles won ties, so that
    allocation and critical values agree also at atoms and on ironed pieces. There the unit must not depend on the
    bids, and be as large as the scores: an offset below their rounding decides nothing.

    Args:
        unit: size of the scores; by default the largest here, for scores that rise strictly in the bid.
    """
    order = torch.arange(1, len(auction.bundles) + 1, dtype=scores.dtype, device=scores.device)
    total = auction.scores(scores) + boosts
    total = total - TIE_BREAK * (_size(total) if unit is None else unit) * order
    there = presence(auction, present, len(total))
    return total if there is None else total.masked_fill(~there, -torch.inf)


def best(scores: Tensor, slots: int) -> Tensor:
    """The ``slots`` largest of ``scores`` floored at zero, sorted down, zero-padded: (..., E) -> (..., slots)."""
    top = scores.clamp_min(0.0).topk(min(slots, scores.shape[-1]), -1).values
    return torch.nn.functional.pad(top, (0, slots - top.shape[-1]))


def allocate(auction: JointAuction, scores: Tensor) -> Tensor:
    """(B, E, K) 0/1: slot k to the bundle with the k-th best score, if that is positive."""
    slots = min(auction.slots, scores.shape[1])
    top, winner = scores.topk(slots, 1)
    allocation = scores.new_zeros(len(scores), slots, scores.shape[1])
    allocation.scatter_(2, winner[:, :, None], (top > 0).to(scores)[:, :, None])
    return torch.nn.functional.pad(allocation.transpose(1, 2), (0, auction.slots - slots))


def critical_payments(
    auction: JointAuction,
    bidder_scores: Tensor,
    scores: Tensor,
    allocation: Tensor,
    inverse: Callable[[Tensor], Tensor],
    low: Tensor | float,
) -> Tensor:
    """What each bidder must at least have bid for what it won.

    With k slots of rate 1, bidder i's j-th best bundle wins iff its value reaches
    ``tau_jk = max(low_i, s_i^{-1}(O_{k-j+1} - P_j))``: P_j is the j-th best of its own bundles without its own score, O
    the scores of the other bundles, floored at zero. The payment is ``sum_k d_k sum_j tau_jk`` over what is won.

    Args:
        bidder_scores: (B, n) scores s_i(b_i), increasing in the bid.
        scores: (B, E) strict scores from :func:`bundle_scores`.
        allocation: (B, E, K) from :func:`allocate`.
        inverse: s^{-1}, (..., n) -> (..., n), inf{b: s_i(b) >= score}, infinite where no bid is enough.
        low: lower end of the support, (n,) or a number.

    Returns:
        (B, n) payments.
    """
    partners, others = rivals(auction, bidder_scores, scores)
    critical, possible = thresholds(auction, partners, others.clamp_min(0.0), inverse, low)
    won = (allocation.transpose(1, 2) @ auction.incidence.to(scores)).cumsum(1)  # (B, K, n), i's among the first k
    rank = torch.arange(1, critical.shape[1] + 1, device=scores.device)[None, :, None, None]
    counted = possible & (rank <= won[:, None])
    steps = auction.rate_steps.to(scores)
    return (critical.where(counted, critical.new_zeros(())).sum(1) * steps[:, None]).sum(1)


def rivals(auction: JointAuction, bidder_scores: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """What each bidder has with it and against it.

    Returns:
        partners: (B, D, n) scores P of the bidder's own bundles without its own score, sorted down, -inf where it has
            fewer than D.
        others: (B, K, n) best K scores O of the bundles without the bidder, sorted down, -inf beyond the end.
    """
    own = _own_bundles(auction).to(scores.device)
    padded = torch.nn.functional.pad(scores, (0, 1), value=-torch.inf)
    partners = (padded[:, own] - bidder_scores[:, :, None]).sort(-1, descending=True).values
    without = scores[:, None].masked_fill(auction.incidence.T.bool().to(scores.device), -torch.inf)
    top = without.topk(min(auction.slots, scores.shape[1]), -1).values
    others = torch.nn.functional.pad(top, (0, auction.slots - top.shape[-1]), value=-torch.inf)
    return partners.transpose(1, 2), others.transpose(1, 2)


def thresholds(
    auction: JointAuction,
    partners: Tensor,
    others: Tensor,
    inverse: Callable[[Tensor], Tensor],
    low: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """(B, J, K, n) critical values tau_jk with J = min(D, K), and (1, J, K, 1) whether j <= k."""
    slots = auction.slots
    rank = torch.arange(1, min(partners.shape[1], slots) + 1, device=partners.device)[:, None]  # j
    units = torch.arange(1, slots + 1, device=partners.device)[None]  # k
    rival = others[:, (units - rank).clamp_min(0)]  # O_{k-j+1}
    critical = inverse(rival - partners[:, : len(rank), None]).maximum(torch.as_tensor(low).to(partners))
    return critical, (rank <= units)[None, :, :, None]


def score_auction(
    auction: JointAuction,
    bidder_scores: Tensor,
    inverse: Callable[[Tensor], Tensor],
    low: Tensor | float = 0.0,
    boosts: Tensor | float = 0.0,
    present: Tensor | None = None,
    unit: Tensor | float | None = None,
) -> Outcome:
    """Best positive scores win, critical values are paid; dominant-strategy incentive compatible."""
    scores = bundle_scores(auction, bidder_scores, boosts, present, unit)
    allocation = allocate(auction, scores)
    return Outcome(allocation, critical_payments(auction, bidder_scores, scores, allocation, inverse, low))


def pivot_payments(
    auction: JointAuction, bids: Tensor, allocation: Tensor, absent: bool, present: Tensor | None = None
) -> Tensor:
    """Clarke pivot payments ``W(without i) - (W(b) - b_i g_i)``, (B, n).

    ``absent``: bidder i takes its bundles away (VCG; may be negative). Otherwise it stays with a zero bid (RVCG).
    """
    incidence = auction.incidence.to(bids)
    scores = bundle_scores(auction, bids, 0.0, present)[:, None]
    if absent:
        without = scores.masked_fill(incidence.T.bool(), -torch.inf)
    else:
        without = scores - bids[:, :, None] * incidence.T
    rates = auction.click_rates.to(bids)
    welfare_without = best(without, auction.slots) @ rates
    gain = bids * auction.clicks(allocation)
    return welfare_without - (gain.sum(1, keepdim=True) - gain)


def _size(scores: Tensor) -> float:
    """The power of two at or below the largest score, 1 where there is none."""
    largest = 0.0 if scores.is_meta or not scores.numel() else float(scores.abs().max())
    return 2.0 ** math.floor(math.log2(largest)) if 0 < largest < math.inf else 1.0


def _own_bundles(auction: JointAuction) -> Tensor:
    """(n, D) numbers of each bidder's bundles, padded with E."""
    own = [row.nonzero().flatten() for row in auction.incidence.T]
    width = max(1, *(len(row) for row in own)) if len(own) > 1 else max(1, len(own[0]))
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=len(auction.bundles)) for row in own])
