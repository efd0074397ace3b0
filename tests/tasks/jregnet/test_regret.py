"""The regret evaluator: definition, grids, memory."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from decathlon.tasks.jregnet import (
    Exponential,
    JointAuction,
    LearntMechanism,
    Outcome,
    Uniform,
    audit,
    exact_regret,
    gsp,
)
from decathlon.tasks.jregnet.regret import deviation_utilities
from tests.tasks.jregnet.markets import S1, random_auction, stream, uniform
from tests.tasks.jregnet.test_network import wild


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any tensor made inside has."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage().nbytes() // leaf.element_size()  # a view of nothing costs nothing
                self.numel = max(self.numel, min(leaf.numel(), storage))
        return result


def pay_your_bid(auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
    """A sale to bundle 0 in the first slot with certainty: the best lie is to bid nothing."""
    allocation = torch.zeros(len(bids), len(auction.bundles), auction.slots, dtype=bids.dtype)
    allocation[:, 0, 0] = 1.0
    return Outcome(allocation, bids * auction.clicks(allocation))


def test_regret_uses_the_true_value_and_the_declared_payment() -> None:
    values = Uniform(4).sample(50, stream(0))
    found = exact_regret(pay_your_bid, S1, values, Uniform(4))
    expected = values * torch.tensor([1.0, 0.0, 1.0, 0.0])  # bidders 0 and 2 form bundle 0
    assert torch.allclose(found.regret, expected, atol=1e-12)
    assert found.misreport[:, [0, 2]].max() == 0
    assert torch.equal(found.misreport[:, [1, 3]], values[:, [1, 3]])


def test_regret_of_first_prices_in_closed_form() -> None:
    """GSP with two slots and two stores: the winner's regret is max(0, a_2 v - (a_1)(v - b))."""
    auction = JointAuction(2, 0, [(0, None), (1, None)], [1.0, 0.8])
    values = torch.tensor([[0.9, 0.6], [0.9, 0.1]], dtype=torch.float64)
    found = exact_regret(gsp, auction, values, Uniform(2))
    assert torch.allclose(found.regret[:, 0], torch.tensor([0.42, 0.0], dtype=torch.float64), atol=1e-9)


def test_more_misreports_never_lower_it_and_truth_bounds_it() -> None:
    auction = random_auction(1, 2)
    mechanism = LearntMechanism(wild(auction))
    values = uniform(auction).sample(60, stream(0), torch.float32)
    lies = torch.rand(9, 60, 6, generator=stream(1))
    few = deviation_utilities(mechanism, auction, values, lies[:4]).amax(0)
    more = deviation_utilities(mechanism, auction, values, lies).amax(0)
    assert (more >= few).all()
    with_truth = deviation_utilities(mechanism, auction, values, torch.cat([lies, values[None]])).amax(0)
    truth = deviation_utilities(mechanism, auction, values, values[None])[0]
    assert (with_truth - truth).min() >= 0
    assert exact_regret(mechanism, auction, values, uniform(auction), points=11).regret.min() >= 0


@pytest.mark.parametrize("seed", [0, 1])
def test_grid_with_refinement_finds_what_a_fine_grid_finds(seed: int) -> None:
    auction = random_auction(seed, 2)
    mechanism = LearntMechanism(wild(auction, seed, width=16))
    values = uniform(auction).sample(100, stream(seed), torch.float32)
    found = exact_regret(mechanism, auction, values, uniform(auction)).regret.mean()
    fine = torch.linspace(0, 1, 401)[:, None, None].expand(-1, 100, 6)
    truth = deviation_utilities(mechanism, auction, values, values[None])[0]
    reference = (deviation_utilities(mechanism, auction, values, fine).amax(0) - truth).clamp_min(0).mean()
    assert found >= 0.99 * reference > 0


def test_pieces_bound_the_largest_tensor() -> None:
    """With max_rows = 4096 no tensor is larger than one layer on the rows of one call, however many the profiles."""
    auction = random_auction(2, 3)
    n, slots, bundles, points, width = auction.bidders, auction.slots, len(auction.bundles), 101, 16
    values = uniform(auction).sample(120, stream(0), torch.float32)
    layer = max(2 * width, 2 * (bundles + 1) * (slots + 1), n * slots)  # hidden units, logits, clicks per slot
    for mechanism, piece, wanted in (
        (LearntMechanism(wild(auction, inputs="slotwise", width=width)), 4096 // (points * n), layer * n),
        (gsp_like, 4096 // points, n * n * slots),  # bidders one by one: below n * M * B * n * K of the call
    ):
        regret = partial(exact_regret, mechanism, auction, prior=uniform(auction), points=points)
        sizes = []
        for samples in (piece, 3 * piece):
            with LargestTensor() as seen:
                pieces = regret(values[:samples], max_rows=4096)
            sizes.append(seen.numel)
        assert 0 < sizes[0] == sizes[1] <= wanted * points * piece + layer * piece
        assert torch.allclose(pieces.regret, regret(values[: 3 * piece], max_rows=1 << 62).regret, atol=1e-6)


def test_slotwise_inputs_of_deviations_are_never_stored() -> None:
    """The first layer's n M B x n K inputs do not arise in one piece either; its activations are all there is."""
    auction = random_auction(2, 5, size=10)
    n, width, count, samples = auction.bidders, 16, 9, 12
    net = wild(auction, inputs="slotwise", width=width)
    bids, lies = torch.rand(n, samples), torch.rand(n, count, samples)
    with LargestTensor() as seen:
        net._first_layer(bids, lies, None)
    assert seen.numel == 2 * width * (samples + n * count * samples) < n * count * samples * n * auction.slots


def gsp_like(auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
    """A mechanism without a fast path for deviations."""
    return pay_your_bid(auction, bids, present)


def test_audit_of_an_untrained_network_is_consistent() -> None:
    auction = random_auction(3, 2)
    values = uniform(auction).sample(3_000, stream(0), torch.float32)
    report = audit(LearntMechanism(wild(auction)), auction, values, uniform(auction), regret_profiles=50, points=11)
    assert report.virtual_welfare <= report.opt
    assert report.revenue <= report.welfare + 1e-6 and report.welfare <= report.best_welfare + 1e-6
    assert report.ir_violation <= 1e-6
    assert report.ic_excess == pytest.approx(report.revenue - report.virtual_welfare)
    assert report.gap == pytest.approx(report.revenue / report.opt - 1)
    assert report.regret_sum == pytest.approx(auction.bidders * report.regret)
    assert report.bidder_revenue.sum().item() == pytest.approx(report.revenue)
    with pytest.raises(ValueError, match="the prior has 4 bidders, the auction 6"):
        audit(gsp_like, auction, values, Uniform(4))
    with pytest.raises(ValueError, match="at least 2 points"):
        exact_regret(gsp_like, auction, values, uniform(auction), points=1)


def chance_of_a_sale(auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
    """Each bidder has a slot of its own, wins it with chance 1 - exp(-b) and pays its bid."""
    allocation = torch.diag_embed(1 - torch.exp(-bids))
    return Outcome(allocation, bids * auction.clicks(allocation))


@pytest.mark.parametrize("cap", [3.0, 30.0, 1e4, 1e7])
def test_regret_on_long_supports_is_the_analytic_one(cap: float) -> None:
    """The best lie solves b + exp(b) = v + 1; it gains (exp(b) - 1)(1 - exp(-b)), however far the support reaches."""
    auction = JointAuction(1, 0, [(0, None)], [1.0])
    prior = Exponential(1, rate=1.0, cap=cap)
    values = prior.sample(300, stream(0))
    values[:3, 0] = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64) * min(cap, 600.0)  # far out in the tail too
    best = torch.zeros_like(values)
    for _ in range(200):  # Newton, from above
        best = best - (best + best.exp() - values - 1) / (1 + best.exp()) if _ else (values + 1).log()
    analytic = (best.exp() - 1) * (1 - torch.exp(-best))
    found = exact_regret(chance_of_a_sale, auction, values, prior)
    assert (found.regret <= analytic + 1e-9).all()
    assert found.regret.mean() >= 0.999 * analytic.mean()
    missed = analytic.mean() - found.regret.mean()
    assert missed <= found.error.mean() + 1e-9
    assert found.error.mean() <= 0.05 * analytic.mean()


def test_the_error_shrinks_with_the_grid_and_bounds_what_is_missed() -> None:
    """Few points: the estimate says so."""
    auction = JointAuction(2, 0, [(0, None), (1, None)], [1.0, 1.0])
    prior = Uniform(2, high=3.0)
    values = prior.sample(200, stream(3))
    reference = exact_regret(chance_of_a_sale, auction, values, prior, points=2001).regret.mean()
    errors = []
    for points in (5, 17, 65):
        found = exact_regret(chance_of_a_sale, auction, values, prior, points=points)
        assert reference - found.regret.mean() <= found.error.mean()
        errors.append(float(found.error.mean()))
    assert errors[0] > errors[1] > errors[2] > 0
    assert audit(chance_of_a_sale, auction, values, prior, points=17).regret_error == pytest.approx(errors[1])
