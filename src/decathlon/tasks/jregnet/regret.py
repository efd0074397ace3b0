"""Exact ex-post regret: what each bidder could gain by misreporting, found by exhaustive search on its support."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.jregnet import inputs
from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.units import spread

MAX_ROWS = 8192
REFINEMENT = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)
NEAR = 0.5 ** torch.arange(1, 9, dtype=torch.float64)


@dataclass(frozen=True)
class Regret:
    """Regret of every bidder in every profile.

    Attributes:
        regret: (B, n), max over misreports of u_i(v_i; misreport) - u_i(v_i; truth), at least 0.
        misreport: (B, n), the best misreport found; the true value where none is better.
        error: (B, n), by how much the regret rose when the distances between the misreports tried were halved and then
            refined. What is still missed is usually far less; it is more where a gain is narrower than the distances.
    """

    regret: Tensor
    misreport: Tensor
    error: Tensor


def with_prior(mechanism: Callable[..., Any], prior: Prior) -> Callable[..., Any]:
    """Give ``prior`` to a mechanism that asks for one by that name, such as :func:`~.mechanisms.optimal`."""
    if isinstance(mechanism, torch.nn.Module):
        raise ValueError(f"{type(mechanism).__name__} is a network, not a mechanism: take LearntMechanism(network)")
    if not callable(mechanism):
        raise ValueError(
            f"a mechanism is called with an auction and bids; a {type(mechanism).__name__} is no such thing"
        )
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
    values: Any,
    prior: Prior,
    present: Any = None,
    points: int = 101,
    max_rows: int = MAX_ROWS,
    beyond_support: bool = False,
) -> Regret:
    """Regret on a grid of ``points`` bids over each bidder's support, refined once around the best (11 points).

    Where a support is much longer than the range of the values (a long tail, a far cap), an even grid steps over them:
    there as many quantiles, and sixteen bids around the truth, are tried as well, and refined twice.

    Profiles are taken in pieces so that no call sees more than about ``max_rows`` bid profiles. The other arguments are
    those of :func:`~.audit.audit`, with the same errors.
    """
    if points < 2:
        raise ValueError(f"points={points}: a grid of misreports needs at least 2 points")
    values, present = inputs.profiles(auction, values, prior, present, beyond_support)
    mechanism = with_prior(mechanism, prior)
    low, high = prior.low.to(values), prior.high.to(values)
    if beyond_support:
        low, high = low.minimum(values.amin(0)), high.maximum(values.amax(0))
    families = [low + torch.linspace(0, 1, points).to(values)[:, None, None] * (high - low)]
    varying = spread(prior).to(values)
    long = bool((varying < (high - low) * (1 - 1e-6)).any())
    if long:
        levels = torch.linspace(0, 1, points, dtype=torch.float64)[:, None].expand(-1, auction.bidders)
        families.append(prior.quantile(levels.contiguous()).to(values)[:, None])
    count = sum(map(len, families)) + (2 * len(NEAR) if long else 0)
    size = max(1, max_rows // (count * (auction.bidders if hasattr(mechanism, "deviate") else 1)))
    found = []
    for start in range(0, len(values), size):
        piece = values[start : start + size]
        there = None if present is None else present[start : start + size]
        utility = partial(deviation_utilities, mechanism, auction, piece, present=there)
        tried = [family.expand(-1, *piece.shape) for family in families]
        if long:
            far = NEAR.to(values)[:, None, None] * varying.maximum(piece - low)
            tried += [(piece - far).maximum(low), (piece + far).minimum(high)]
        found.append(_search(piece, tried, utility, low, high, None if long else (high - low) / (points - 1)))
    return Regret(*(torch.cat(parts) for parts in zip(*found)))


def _search(
    truth: Tensor,
    families: list[Tensor],
    utility: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    step: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Regret, misreport and error (B, n) of the true values (B, n).

    Args:
        families: (M, B, n) misreports each; every other one of each is the coarse half that the error compares with.
        step: distance of a single, even family; None: refine between the neighbours of the best, twice.
    """
    before = utility(truth[None])[0]
    candidates = torch.cat(families)
    gains = utility(candidates) - before
    coarse = torch.cat([part[::2] for part in gains.split([len(family) for family in families])]).amax(0)
    bid, gain = _better(truth, torch.zeros_like(truth), candidates, gains)
    if step is None:
        below = candidates.where(candidates < bid, low).amax(0)
        above = candidates.where(candidates > bid, high).amin(0)
        around = below + (REFINEMENT.to(truth)[:, None, None] + 0.5) * (above - below)
        bid, gain = _better(bid, gain, around, utility(around) - before)
        step = (above - below) / (len(REFINEMENT) - 1)
    around = (bid + REFINEMENT.to(truth)[:, None, None] * step).minimum(high).maximum(low)
    bid, gain = _better(bid, gain, around, utility(around) - before)
    return gain, bid, (gain - coarse.clamp_min(0)).clamp_min(0)


def _better(bid: Tensor, gain: Tensor, candidates: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    """The best of the current bid, with its gain over the truth, and the candidates (M, B, n) with theirs."""
    best, places = gains.max(0)
    improved = best > gain
    chosen = candidates.gather(0, places[None])[0]
    return torch.where(improved, chosen, bid), torch.where(improved, best, gain)
