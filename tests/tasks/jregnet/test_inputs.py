"""What a stranger may pass: each fault is one line, and what can be understood is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from decathlon.tasks.jregnet import (
    AffineMaximizer,
    IntegralPayments,
    JointAuction,
    JRegNet,
    LearntMechanism,
    Outcome,
    Uniform,
    audit,
    best_reserve,
    exact_regret,
    optimal,
    optimal_revenue,
    rvcg,
    vcg,
)
from decathlon.tasks.jregnet.learner import RegretLearner
from tests.tasks.jregnet.markets import S1, stream

PRIOR = Uniform(4)
VALUES = PRIOR.sample(30, stream(0))


def first(clicks: float = 1.0, payments: float = 0.0, ignore: bool = True) -> Callable[..., Outcome]:
    """A mechanism that shows bundle 0 in the first slot with probability ``clicks``."""

    def mechanism(auction: JointAuction, bids: torch.Tensor, present: Any = None) -> Outcome:
        allocation = torch.zeros(len(bids), len(auction.bundles), auction.slots, dtype=bids.dtype)
        allocation[:, 0, 0] = clicks
        return Outcome(allocation, torch.full_like(bids, payments))

    return mechanism


ABSENT = torch.tensor([[False, True]]).repeat(30, 1)
FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "more clicks than there are": (lambda: audit(first(1.5), S1, VALUES, PRIOR), r"impossible: .*off by 0\.5"),
    "a negative probability": (lambda: audit(first(-0.5), S1, VALUES, PRIOR), "impossible"),
    "absent bundles sold": (lambda: audit(first(), S1, VALUES, PRIOR, ABSENT), "bundles that are absent"),
    "payments nan": (lambda: audit(first(payments=float("nan")), S1, VALUES, PRIOR), "not finite"),
    "no outcome": (lambda: audit(lambda a, b, present: (b, b), S1, VALUES, PRIOR), "returned a tuple"),
    "wrong shapes": (
        lambda: audit(lambda a, b, present: Outcome(b, b), S1, VALUES, PRIOR), r"expected \(30, 2, 2\) and \(30, 4\)"
    ),
    "nan": (
        lambda: audit(rvcg, S1, VALUES.clone().fill_diagonal_(torch.nan), PRIOR), "the first is nan of bidder 0"
    ),
    "negative values": (lambda: audit(rvcg, S1, -VALUES, PRIOR), "finite and not negative"),
    "above the support": (
        lambda: audit(optimal, S1, 1 + VALUES, PRIOR), r"120 values lie outside .*support is \[0, 1\]"
    ),
    "regret above the support": (lambda: exact_regret(optimal, S1, 1 + VALUES, PRIOR), "120 values lie outside"),
    "no profile": (lambda: audit(rvcg, S1, VALUES[:0], PRIOR), "values is empty"),
    "no regret profile": (lambda: audit(rvcg, S1, VALUES, PRIOR, regret_profiles=0), "regret_profiles=0"),
    "one profile, flat": (lambda: audit(rvcg, S1, VALUES[0], PRIOR), r"must be \(profiles, 4 bidders\), not \(4,\)"),
    "words": (lambda: audit(rvcg, S1, [["a", "b", "c", "d"]], PRIOR), "must be numbers"),
    "complex": (lambda: audit(rvcg, S1, VALUES + 0j, PRIOR), "real numbers"),
    "arguments swapped": (lambda: audit(S1, rvcg, VALUES, PRIOR), "expected a JointAuction and a Prior"),  # type: ignore
    "a network": (lambda: audit(JRegNet(S1), S1, VALUES, PRIOR), r"take LearntMechanism\(network\)"),
    "presence of another shape": (lambda: rvcg(S1, VALUES, torch.ones(2).bool()), r"each of \(30, 2\)"),
    "presence that is no yes or no": (lambda: vcg(S1, VALUES, torch.full((30, 2), 2)), "true or false"),
    "bids of others": (lambda: rvcg(S1, VALUES[:, :3]), r"bids must be \(profiles, 4 bidders\)"),
    "optimum of others": (lambda: optimal_revenue(S1, VALUES[:, :3], PRIOR), "4 bidders"),
    "a reserve of nan": (lambda: rvcg(S1, VALUES, reserve=float("nan")), "reserve=nan"),
    "a reserve of nobody": (lambda: best_reserve(S1, VALUES[:0]), "at least one profile"),
    "a network in another market": (
        lambda: LearntMechanism(JRegNet(S1))(JointAuction(2, 2, [(0, 1), (1, 0)], [1.0, 0.5]), VALUES), "other bundles"
    ),
    "a network at other click rates": (
        lambda: LearntMechanism(JRegNet(S1))(S1.with_click_rates([1.0, 0.4]), VALUES), "other click rates"
    ),
    "negative weights": (lambda: AffineMaximizer([-1.0] * 4, [0.0] * 2), "positive weights"),
    "weights of others": (lambda: AffineMaximizer([1.0] * 3, [0.0] * 2)(S1, VALUES), "3 weights and 2 boosts"),
    "a learner for others": (lambda: RegretLearner(S1, Uniform(3), [0]), "prior has 3 bidders"),
    "no seed": (lambda: RegretLearner(S1, PRIOR, []), "at least one seed"),
    "no stores": (
        lambda: RegretLearner(JointAuction(0, 2, [(None, 0)], [1.0]), Uniform(2), [0], bidders="stores"), "no stores"
    ),
    "half a store": (lambda: JointAuction(2.5, 2, [(0, 0)], [1.0]), "whole number"),  # type: ignore[arg-type]
    "bundles that are numbers": (lambda: JointAuction(2, 2, [0, 1], [1.0]), r"must be \(store, brand\)"),  # type: ignore
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_gets_one_line(name: str) -> None:
    call, message = FAULTS[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_arrays_lists_and_whole_numbers_are_values() -> None:
    prior = Uniform(4, high=10.0)
    whole = torch.randint(0, 11, (20, 4), generator=stream(1))
    expected = audit(optimal, S1, whole.double(), prior, points=11)
    for values in (whole, whole.numpy(), whole.tolist(), whole.numpy().astype(np.int32)):
        report = audit(optimal, S1, values, prior, points=11)
        assert report.scalars() == expected.scalars()
    mechanisms: list[Callable[..., Outcome]] = [
        rvcg, vcg, LearntMechanism(JRegNet(S1)), AffineMaximizer([0.5] * 4, [-0.3] * 2),
        IntegralPayments(JRegNet(S1, generator=stream(0)), torch.zeros(4), torch.full((4,), 10.0)),
    ]  # fmt: skip
    for mechanism in mechanisms:
        small = mechanism(S1, whole)
        assert small.payments.is_floating_point()
        assert torch.allclose(small.payments.double(), mechanism(S1, whole.double()).payments.double(), atol=1e-5)
    present = np.ones((20, 2), dtype=int)
    assert torch.equal(rvcg(S1, whole, present).payments, rvcg(S1, whole).payments)
    built = JointAuction(np.int64(2), 2, np.array([[0, 0], [1, 1]]), np.array([1.0, 0.5]))  # type: ignore[arg-type]
    assert built.bundles == S1.bundles


def test_bids_outside_of_the_support_count_as_its_end() -> None:
    """Payments stay finite, and a log's values may lie above the support of a prior fitted to another part of it."""
    bids = torch.tensor([[1.7, 0.9, 3.0, 0.8]], dtype=torch.float64)
    outcome = optimal(S1, bids, PRIOR)
    assert torch.equal(outcome.payments, optimal(S1, bids.clamp(max=1.0), PRIOR).payments)
    report = audit(optimal, S1, bids, PRIOR, beyond_support=True)
    assert 0 < report.revenue < 2 and report.regret_max < 1e-9 and report.virtual_welfare <= report.opt + 1e-9
    found = exact_regret(rvcg, S1, bids, PRIOR, beyond_support=True)
    assert found.regret.max() < 1e-9
