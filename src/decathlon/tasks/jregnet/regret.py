"""Exact ex-post regret: what each bidder could gain by misreporting, found by exhaustive search on its support."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.priors import Prior

MAX_ROWS = 8192
REFINEMENT = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)


@dataclass(frozen=True)
class Regret:
    """Regret of every bidder in every profile.

    Attributes:
        regret: (B, n), max over misreports of u_i(v_i; misreport) - u_i(v_i; truth), at least 0.
        misreport: (B, n), the best misreport found; the true value where none is better.
    """

    regret: Tensor
    misreport: Tensor


def with_prior(mechanism: Callable[..., Any], prior: Prior) -> Callable[..., Any]:
    """Give ``prior`` to a mechanism that asks for one by that name, such as :func:`~.mechanisms.optimal`."""
    if "prior" in inspect.signature(mechanism).parameters and not isinstance(mechanism, partial):
        return partial(mechanism, prior=prior)
    return mechanism


def deviation_utilities(
    mechanism: Callable[..., Any],
    auction: JointAuction,
    values: Tensor,
    misreports: Tensor,
    present: Tensor | None = None,
) -> Tensor:
    """u_i(v_i; (misreport_i, v_-i)) with the *true* value v_i, each bidder deviating alone.

    A mechanism may have a method ``deviate(auction, values, misreports, present)`` that computes the same faster.

    Args:
        values: (B, n) true values.
        misreports: (M, B, n); entry (m, l, i) replaces coordinate i of profile l.
        present: (B, E) bundles that exist.

    Returns:
        (M, B, n) utilities.
    """
    if hasattr(mechanism, "deviate"):
        return mechanism.deviate(auction, values, misreports, present)
    count, samples, bidders = misreports.shape
    profiles = values.expand(count, samples, bidders).reshape(-1, bidders)
    rows = None if present is None else present.repeat(count, 1)
    utilities = torch.empty_like(misreports)
    for bidder in range(bidders):
        bids = profiles.clone()
        bids[:, bidder] = misreports[:, :, bidder].flatten()
        outcome = mechanism(auction, bids, present=rows)
        utilities[:, :, bidder] = auction.utilities(profiles, outcome)[:, bidder].view(count, samples)
    return utilities


@torch.no_grad()
def exact_regret(
    mechanism: Callable[..., Any],
    auction: JointAuction,
    values: Tensor,
    prior: Prior,
    present: Tensor | None = None,
    points: int = 101,
    max_rows: int = MAX_ROWS,
) -> Regret:
    """Regret on a grid of ``points`` bids over each bidder's support, refined once around the best (11 points).

    Profiles are taken in pieces so that no call sees more than about ``max_rows`` bid profiles.
    """
    if points < 2:
        raise ValueError(f"points={points}: a grid of misreports needs at least 2 points")
    mechanism = with_prior(mechanism, prior)
    low, high = prior.low.to(values), prior.high.to(values)
    grid = low + torch.linspace(0, 1, points).to(values)[:, None, None] * (high - low)
    step = (high - low) / (points - 1)
    rows = points * (auction.bidders if hasattr(mechanism, "deviate") else 1)
    size = max(1, max_rows // rows)
    regrets, best_bids = [], []
    for start in range(0, len(values), size):
        piece = values[start : start + size]
        there = None if present is None else present[start : start + size]
        utility = partial(deviation_utilities, mechanism, auction, piece, present=there)
        truth = utility(piece[None])[0]
        bid, gain = _better(piece, torch.zeros_like(piece), grid.expand(-1, *piece.shape), utility, truth)
        around = (bid + REFINEMENT.to(values)[:, None, None] * step).minimum(high).maximum(low)
        bid, gain = _better(bid, gain, around, utility, truth)
        regrets.append(gain)
        best_bids.append(bid)
    return Regret(torch.cat(regrets), torch.cat(best_bids))


def _better(
    bid: Tensor, gain: Tensor, candidates: Tensor, utility: Callable[[Tensor], Tensor], truth: Tensor
) -> tuple[Tensor, Tensor]:
    """The best of the current bid, with its gain over the truth, and the candidates (M, B, n)."""
    gains, places = (utility(candidates) - truth).max(0)
    improved = gains > gain
    chosen = candidates.gather(0, places[None])[0]
    return torch.where(improved, chosen, bid), torch.where(improved, gains, gain)
