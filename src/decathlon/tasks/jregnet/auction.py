"""The joint auction (Zhang et al., KDD 2024): bidders, bundles, slots, and what follows from an allocation."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Bundle = tuple[int | None, int | None]


@dataclass(frozen=True)
class Outcome:
    """What a mechanism decides for a batch of bid profiles.

    Attributes:
        allocation: (B, E, K), the probability that bundle e is shown in slot k.
        payments: (B, n), the expected payment of each bidder, stores first.
    """

    allocation: Tensor
    payments: Tensor


class Mechanism(Protocol):
    """Anything that maps bids to an outcome: a function such as :func:`~.mechanisms.rvcg`, or a trained network."""

    def __call__(self, auction: "JointAuction", bids: Tensor, present: Tensor | None = None) -> Outcome:
        """Outcome for ``bids`` (B, n); ``present`` (B, E) says which bundles exist in each profile (default: all)."""


class JointAuction:
    """K slots sold to bundles of bidders; the shape of the market, without values.

    Bidders are numbered 0 … n-1, stores first. A bundle is a hyperedge: a pair (store, brand) of a joint auction,
    a single store ``(store, None)`` or brand ``(None, brand)`` of a traditional one, both together in a hybrid one.
    Every bundle takes at most one slot, every slot at most one bundle; a bidder may win with several bundles.

    Args:
        stores: number of stores.
        brands: number of brands.
        bundles: pairs (store, brand), each numbered from 0 within its side; ``None`` leaves a side out.
        click_rates: click-through rates of the slots, 1 >= a_1 >= ... >= a_K > 0.

    Raises:
        ValueError: in one line, which argument is wrong and why.

    Attributes:
        members: for each bundle, the numbers of its bidders.
        incidence: (E, n) float64, 1 where the bidder belongs to the bundle.
        click_rates: (K,) float64.
    """

    def __init__(
        self, stores: int, brands: int, bundles: Sequence[Bundle], click_rates: Sequence[float] | Tensor
    ) -> None:
        self.stores, self.brands = _whole(stores, "the number of stores"), _whole(brands, "the number of brands")
        if self.stores < 0 or self.brands < 0 or self.stores + self.brands == 0:
            raise ValueError(f"an auction needs at least one bidder, not {stores} stores and {brands} brands")
        self.bundles = [_checked(bundle, self.stores, self.brands) for bundle in bundles]
        if not self.bundles:
            raise ValueError("bundles is empty: an auction needs at least one bundle")
        for bundle in self.bundles:
            if self.bundles.count(bundle) > 1:
                raise ValueError(f"bundle {bundle} is listed twice")
        self.members = [
            tuple(number for number in (store, None if brand is None else self.stores + brand) if number is not None)
            for store, brand in self.bundles
        ]
        self.click_rates = _click_rates(click_rates)
        self.incidence = torch.zeros(len(self.bundles), self.bidders, dtype=torch.float64)
        for row, members in enumerate(self.members):
            self.incidence[row, list(members)] = 1.0

    @property
    def bidders(self) -> int:
        """Number n of bidders, stores and brands."""
        return self.stores + self.brands

    @property
    def slots(self) -> int:
        """Number K of slots."""
        return len(self.click_rates)

    @property
    def rate_steps(self) -> Tensor:
        """(K,) d_k = a_k - a_{k+1} with a_{K+1} = 0: the weight of "k units of rate 1" in the slot decomposition."""
        return self.click_rates - torch.cat([self.click_rates[1:], self.click_rates.new_zeros(1)])

    def with_click_rates(self, click_rates: Sequence[float] | Tensor) -> "JointAuction":
        """The same market with other slots."""
        return JointAuction(self.stores, self.brands, self.bundles, click_rates)

    def traditional(self) -> "JointAuction":
        """The stores alone, one slot each: brands neither bid nor pay."""
        return JointAuction(self.stores, 0, [(store, None) for store in range(self.stores)], self.click_rates)

    def scores(self, bidder_scores: Tensor) -> Tensor:
        """Sum of the members' scores in each bundle: (B, n) -> (B, E)."""
        return bidder_scores @ self.incidence.to(bidder_scores).T

    def clicks(self, allocation: Tensor) -> Tensor:
        """Expected clicks g = A^T z a of every bidder: (B, E, K) -> (B, n)."""
        return (allocation @ self.click_rates.to(allocation)) @ self.incidence.to(allocation)

    def utilities(self, values: Tensor, outcome: Outcome) -> Tensor:
        """u_i = v_i g_i - p_i for the *true* values (B, n), whatever was bid."""
        return values * self.clicks(outcome.allocation) - outcome.payments

    def infeasibility(self, allocation: Tensor) -> float:
        """Largest violation of z >= 0, sum_e z <= 1 per slot and sum_k z <= 1 per bundle; 0 for a feasible z."""
        excess = max(
            float(allocation.sum(-2).max()) - 1.0,
            float(allocation.sum(-1).max()) - 1.0,
            -float(allocation.min()),
        )
        return max(excess, 0.0)

    def __repr__(self) -> str:
        rates = [round(rate, 4) for rate in self.click_rates.tolist()]
        return f"JointAuction({self.stores} stores, {self.brands} brands, {len(self.bundles)} bundles, {rates})"


def _checked(bundle: Any, stores: int, brands: int) -> Bundle:
    members = tuple(bundle) if isinstance(bundle, Iterable) else (bundle,)
    if len(members) != 2 or members == (None, None):
        raise ValueError(f"bundle {bundle} must be (store, brand); None leaves one side out")
    store, brand = (number if number is None else _whole(number, f"bundle {bundle}: a member") for number in members)
    for number, count, side in ((store, stores, "store"), (brand, brands, "brand")):
        if number is not None and not 0 <= number < count:
            raise ValueError(f"bundle {bundle}: there is no {side} {number}; {side}s are numbered 0 to {count - 1}")
    return store, brand


def _whole(number: Any, what: str) -> int:
    """A whole number, NumPy's and torch's too."""
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise ValueError(f"{what} must be a whole number, not {number!r}")
    return operator.index(number)


def _click_rates(rates: Sequence[float] | Tensor) -> Tensor:
    checked = torch.as_tensor(rates, dtype=torch.float64).flatten()
    listed = [float(rate) for rate in checked]
    if not listed:
        raise ValueError("click_rates is empty (K = 0): an auction needs at least one slot")
    for number, rate in enumerate(listed):
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"click rate {rate:g} of slot {number + 1} must lie in (0, 1]")
        if number and rate > listed[number - 1]:
            raise ValueError(
                f"click_rates must be sorted down, but slot {number + 1} has {rate:g} > {listed[number - 1]:g}"
            )
    return checked
