"""Checks of what users pass: profiles, presence, outcomes. Each fault is a ValueError of one line."""

from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.jregnet.auction import JointAuction, Outcome
from decathlon.tasks.jregnet.priors import Prior

SLACK = 1e-5  # probability: more than float32 sums are off by
ROUNDING = 1e-6  # relative: values in float32 may lie so far outside of a support


def numbers(values: Any, bidders: int, what: str = "values") -> Tensor:
    """Profiles (B, n) as a floating-point tensor; arrays and nested lists are taken too, whole numbers as float64.

    Raises:
        ValueError: they have another shape, or are no finite, non-negative real numbers.
    """
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what} must be numbers (profiles, {bidders} bidders), not {type(values).__name__}"
        ) from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{what} must be real numbers, not {tensor.dtype}")
    if not tensor.is_floating_point():
        tensor = tensor.double()
    if tensor.dim() != 2 or tensor.shape[1] != bidders:
        raise ValueError(f"{what} must be (profiles, {bidders} bidders), not {tuple(tensor.shape)}")
    if tensor.is_meta or not tensor.numel():
        return tensor
    least, most = (float(end) for end in tensor.aminmax())  # nan if any is
    if not 0 <= least <= most < float("inf"):
        raise ValueError(f"{what} must be finite and not negative; {_first(tensor)}")
    return tensor


def exact_bids(auction: JointAuction, bids: Any) -> Tensor:
    """Checked bids (B, n) in float64."""
    return numbers(bids, auction.bidders, "bids").double()


def profiles(
    auction: JointAuction, values: Any, prior: Prior, present: Any, beyond_support: bool
) -> tuple[Tensor, Tensor | None]:
    """Checked values (B, n) and presence (B, E) to be audited.

    Raises:
        ValueError: there are none, they are no profiles of this auction, or (unless ``beyond_support``) lie outside of
            the prior's support.
    """
    if not isinstance(auction, JointAuction) or not isinstance(prior, Prior):
        raise ValueError(
            f"expected a JointAuction and a Prior, not {type(auction).__name__} and {type(prior).__name__}"
        )
    if prior.bidders != auction.bidders:
        raise ValueError(f"the prior has {prior.bidders} bidders, the auction {auction.bidders}")
    checked = numbers(values, auction.bidders)
    if not len(checked):
        raise ValueError("there is no profile to audit: values is empty")
    if not beyond_support:
        low, high = prior.low.to(checked), prior.high.to(checked)
        slack = ROUNDING * high
        outside = (checked < low - slack) | (checked > high + slack)
        if bool(outside.any()):
            row, bidder = (int(number) for number in outside.nonzero()[0])
            raise ValueError(
                f"{int(outside.sum())} values lie outside of the prior's support, the first is "
                f"{float(checked[row, bidder]):g} of bidder {bidder} in profile {row}, whose support is "
                f"[{float(prior.low[bidder]):g}, {float(prior.high[bidder]):g}]"
            )
    return checked, presence(auction, present, len(checked))


def presence(auction: JointAuction, present: Any, samples: int) -> Tensor | None:
    """Checked presence (B, E), or None."""
    if present is None:
        return None
    tensor = torch.as_tensor(present)
    if tensor.is_meta:
        return tensor
    wanted = (samples, len(auction.bundles))
    if tuple(tensor.shape) != wanted or not bool(((tensor == 0) | (tensor == 1)).all()):
        kind = f"{tensor.dtype} {tuple(tensor.shape)}"
        raise ValueError(f"present must be true or false for each of {wanted} (profile, bundle), not {kind}")
    return tensor.bool()


def same_market(auction: JointAuction, incidence: Tensor, rates: Tensor) -> None:
    """Raise ValueError unless a network made for these bundles and click rates is used in this very market."""
    if incidence.is_meta:
        return
    same = [
        tuple(own.shape) == tuple(other.shape) and torch.allclose(own.double().cpu(), other)
        for own, other in ((incidence, auction.incidence), (rates, auction.click_rates))
    ]
    if not all(same):
        raise ValueError(f"the network was made for other {'bundles' if not same[0] else 'click rates'} than {auction}")


def outcome(auction: JointAuction, found: Any, samples: int, present: Tensor | None) -> Outcome:
    """What a mechanism returned, if an auction can have such an outcome.

    Raises:
        ValueError: it has the wrong shape, sells what there is not, or charges what is no number.
    """
    parts = [getattr(found, name, None) for name in ("allocation", "payments")]
    if not all(isinstance(part, Tensor) for part in parts):
        raise ValueError(f"the mechanism returned a {type(found).__name__}, not an Outcome of tensors")
    sold, paid = (samples, len(auction.bundles), auction.slots), (samples, auction.bidders)
    if tuple(found.allocation.shape) != sold or tuple(found.payments.shape) != paid:
        raise ValueError(
            f"the mechanism returned an allocation {tuple(found.allocation.shape)} and payments "
            f"{tuple(found.payments.shape)}; expected {sold} and {paid}"
        )
    if not bool(found.allocation.isfinite().all() and found.payments.isfinite().all()):
        raise ValueError("the mechanism returned an allocation or payments that are not finite")
    excess = auction.infeasibility(found.allocation)
    if excess > SLACK:
        raise ValueError(
            "the mechanism's allocation is impossible: a probability below 0, more than one bundle in a slot, or more "
            f"than one slot for a bundle (off by {excess:.2g})"
        )
    if present is not None and float(found.allocation[~present].abs().sum()) > SLACK:
        raise ValueError("the mechanism sells bundles that are absent: it must heed present")
    return found


def _first(tensor: Tensor) -> str:
    bad = ~(tensor.isfinite() & (tensor >= 0))
    row, column = (int(number) for number in bad.nonzero()[0])
    return f"{int(bad.sum())} are not, the first is {float(tensor[row, column])} of bidder {column} in profile {row}"
