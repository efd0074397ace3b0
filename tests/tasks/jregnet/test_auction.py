"""The market itself: feasibility, hyperedges, bad settings, and the five lines of the README without Lightning."""

import subprocess
import sys

import pytest
import torch

from decathlon.errors import ConfigError
from decathlon.tasks.jregnet import (
    IntegralPayments,
    JointAuction,
    JRegNet,
    LearntMechanism,
    Normal,
    Outcome,
    Uniform,
    graphs,
    gsp,
    optimal,
    rvcg,
    vcg,
)
from decathlon.tasks.jregnet.market import Market

FIVE_LINES = """
from decathlon.tasks.jregnet import JointAuction, Uniform, optimal, rvcg, vcg, audit
auction = JointAuction(stores=2, brands=2, bundles=[(0, 0), (1, 1)], click_rates=[1.0, 0.5])
prior = Uniform(4)
bids = values = prior.sample(500)
outcome = optimal(auction, bids, prior)
for mechanism in (rvcg, vcg, optimal):
    report = audit(mechanism, auction, values, prior)
    print(report.revenue, report.regret, report.welfare, report.virtual_welfare, report.ic_excess, report.gap)
assert outcome.allocation.shape == (500, 2, 2) and outcome.payments.shape == (500, 4)
import sys
heavy = {"lightning", "hydra", "omegaconf", "scipy", "matplotlib", "pandas", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""


def test_five_lines_need_torch_only() -> None:
    done = subprocess.run([sys.executable, "-c", FIVE_LINES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_clicks_and_utilities() -> None:
    auction = JointAuction(1, 2, [(0, 0), (0, 1)], [1.0, 0.5])
    allocation = torch.tensor([[[0.5, 0.25], [0.5, 0.5]]])
    clicks = auction.clicks(allocation)
    assert torch.allclose(clicks, torch.tensor([[1.375, 0.625, 0.75]]))
    values, payments = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    utilities = auction.utilities(values, Outcome(allocation, payments))
    assert torch.allclose(utilities, torch.tensor([[0.375, 0.25, 1.25]]))


def test_infeasibility_is_the_largest_violation() -> None:
    auction = JointAuction(2, 2, [(0, 0), (1, 1)], [1.0, 0.5])
    assert auction.infeasibility(torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])) == 0.0
    assert auction.infeasibility(torch.tensor([[[0.8, 0.0], [0.5, 0.5]]])) == pytest.approx(0.3)
    assert auction.infeasibility(torch.tensor([[[0.8, 0.4], [0.1, 0.5]]])) == pytest.approx(0.2)
    assert auction.infeasibility(torch.tensor([[[0.8, -0.4], [0.1, 0.5]]])) == pytest.approx(0.4)


def test_singletons_pairs_and_both_are_one_model() -> None:
    hybrid = JointAuction(2, 1, [(0, None), (None, 0), (1, 0)], [1.0])
    assert hybrid.members == [(0,), (2,), (1, 2)]
    bids = torch.tensor([[0.9, 0.3, 0.5], [0.1, 0.3, 0.5], [0.1, 0.0, 0.5]])
    outcome = rvcg(hybrid, bids)
    assert outcome.allocation[:, :, 0].argmax(1).tolist() == [0, 2, 1]
    # Critical values: 0.9 wins against 0.8; the pair (0.3, 0.5) against 0.5 and 0.1; the last against 0.1 or its pair.
    assert torch.allclose(outcome.payments[0], torch.tensor([0.8, 0.0, 0.0]))
    assert torch.allclose(outcome.payments[1], torch.tensor([0.0, 0.0, 0.0]))


def test_gsp_pays_the_next_bid() -> None:
    stores = JointAuction(3, 0, [(0, None), (1, None), (2, None)], [1.0, 0.5])
    outcome = gsp(stores, torch.tensor([[0.2, 0.9, 0.6]]))
    assert torch.allclose(outcome.payments, torch.tensor([[0.0, 0.6, 0.1]]))
    with pytest.raises(ValueError, match="single bidders"):
        gsp(JointAuction(1, 1, [(0, 0)], [1.0]), torch.rand(1, 2))


def test_mechanisms_follow_the_device_of_the_bids() -> None:
    """On the meta device, which refuses operands from any other."""
    auction = JointAuction(2, 2, [(0, 0), (1, 1)], [1.0, 0.5])
    bids, shops = (torch.empty(5, n, device="meta") for n in (4, 2))
    network = JRegNet(auction).to("meta")
    integral = IntegralPayments(network, torch.zeros(4), torch.ones(4), points=9)
    outcomes = [
        vcg(auction, bids), rvcg(auction, bids), optimal(auction, bids, Normal(4)), gsp(auction.traditional(), shops),
        LearntMechanism(network)(auction, bids), integral(auction, bids),
    ]  # fmt: skip
    for outcome in outcomes:
        assert outcome.allocation.device.type == outcome.payments.device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 2, [(0, 0)], [0.5, 0.7]), "click_rates must be sorted down"),
        ((2, 2, [(0, 0)], [1.2, 0.7]), "click rate 1.2 of slot 1"),
        ((2, 2, [(0, 0)], [0.5, 0.0]), "click rate 0 of slot 2"),
        ((2, 2, [(0, 0)], []), r"K = 0"),
        ((2, 2, [(2, 0)], [1.0]), "there is no store 2; stores are numbered 0 to 1"),
        ((2, 2, [(0, 5)], [1.0]), "there is no brand 5"),
        ((2, 2, [(0, 0), (0, 0)], [1.0]), "listed twice"),
        ((2, 2, [(None, None)], [1.0]), "must be"),
        ((2, 2, [], [1.0]), "at least one bundle"),
        ((0, 0, [(0, 0)], [1.0]), "at least one bidder"),
    ],
)
def test_bad_auctions_get_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        JointAuction(*arguments)
    assert "\n" not in str(caught.value)


def test_bad_settings_get_one_line() -> None:
    good = {"stores": 2, "brands": 2, "graph": "disjoint"}
    with pytest.raises(ConfigError, match=r"distribution=gamma is unknown; choose uniform, exponential"):
        Market(good, 0, [1.0], distribution="gamma")
    with pytest.raises(ConfigError, match="distribution=uniform has no option scale; choose low, high"):
        Market(good, 0, [1.0], distribution={"kind": "uniform", "scale": 2})
    with pytest.raises(ValueError, match=r"graph.kind=ring is unknown; choose full"):
        Market({**good, "graph": "ring"}, 0, [1.0])
    with pytest.raises(ValueError, match="allow 1 to 4"):
        Market(good, 0, [1.0], bundles=5)
    with pytest.raises(ValueError, match="the prior has 3 bidders, the auction 4"):
        optimal(JointAuction(2, 2, [(0, 0)], [1.0]), torch.rand(2, 4), Uniform(3))


def test_graphs() -> None:
    assert graphs.path(3, 3) == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    assert graphs.disjoint(2, 3) == [(0, 0), (1, 1)]
    assert len(graphs.full(3, 5)) == 15
    first, again, other = (graphs.random(4, 5, 8, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert first == again != other and len(set(first)) == 8
    presence = graphs.random_presence(50, 12, 5, torch.Generator().manual_seed(0))
    assert presence.sum(1).eq(5).all() and presence.float().mean(0).min() > 0.1
    per_sample = Market(
        {"stores": 3, "brands": 4, "graph": {"kind": "random", "bundles": 5, "per": "sample"}}, 0, [1.0]
    )
    values, present = per_sample.profiles("test", 20, 0)
    assert values.shape == (20, 7) and present is not None and present.shape == (20, 12) and per_sample.varies


def test_absent_bundles_never_win() -> None:
    auction = JointAuction(2, 2, graphs.full(2, 2), [1.0, 0.5])
    prior = Uniform(4)
    bids = prior.sample(300, torch.Generator().manual_seed(0))
    present = graphs.random_presence(300, 4, 2, torch.Generator().manual_seed(1))
    for outcome in (
        rvcg(auction, bids, present), vcg(auction, bids, present), optimal(auction, bids, prior, present),
    ):  # fmt: skip
        assert outcome.allocation[~present].abs().max() == 0
    # Where the graph of a profile is {e, f}, the outcome is that of the small auction with these two bundles.
    for row in range(5):
        kept = [auction.bundles[e] for e in present[row].nonzero().flatten().tolist()]
        small = JointAuction(2, 2, kept, [1.0, 0.5])
        expected = optimal(small, bids[row : row + 1], prior).payments
        assert torch.allclose(optimal(auction, bids, prior, present).payments[row : row + 1], expected)
