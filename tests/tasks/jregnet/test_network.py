"""The network, untrained: what must hold for any weights."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decathlon.tasks.jregnet import JointAuction, JRegNet, LearntMechanism, Uniform, audit, graphs
from decathlon.tasks.jregnet.learner import RegretLearner
from decathlon.tasks.jregnet.market import TrainingProfiles
from decathlon.tasks.jregnet.misreports import Ascent, LocalSearch
from decathlon.tasks.jregnet.network import at_places
from decathlon.tasks.jregnet.regret import deviation_utilities
from decathlon.tasks.jregnet.stacking import Stack
from tests.tasks.jregnet.markets import S1, random_auction, s1_market, stream, uniform

NETS = [
    {},
    {"depth": 1, "activation": "tanh"},
    {"depth": 3, "inputs": "slotwise", "activation": "relu"},
    {"payments": "slots", "width": 16, "activation": "gelu"},
]


def wild(auction: JointAuction, seed: int = 0, **options: object) -> JRegNet:
    """A network with large weights, so that probabilities are far from even."""
    net = JRegNet(auction, generator=stream(seed), **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=stream(seed)))
    return net


@pytest.mark.parametrize("options", NETS)
@pytest.mark.parametrize("slots", [1, 2, 6])
def test_feasible_and_rational_for_any_weights(options: dict, slots: int) -> None:
    auction = random_auction(slots, slots)
    net = wild(auction, **options)
    bids = uniform(auction).sample(300, stream(1), torch.float32)
    with torch.no_grad():
        outcome = net.outcome(auction, bids)
    assert auction.infeasibility(outcome.allocation) <= 1e-6
    clicks = auction.clicks(outcome.allocation)
    expected = torch.einsum("en,bek,k->bn", auction.incidence.float(), outcome.allocation, auction.click_rates.float())
    assert (clicks - expected).abs().max() < 1e-6
    assert outcome.payments.min() >= 0 and (outcome.payments - bids * clicks).max() <= 1e-6
    assert auction.utilities(bids, outcome).min() >= -1e-6


@pytest.mark.parametrize("options", NETS)
def test_absent_bundles_get_exactly_nothing(options: dict) -> None:
    auction = JointAuction(2, 3, graphs.full(2, 3), [0.9, 0.4])
    net = wild(auction, graph_input=True, **options)
    present = graphs.random_presence(100, 6, 3, stream(0))
    bids = uniform(auction).sample(100, stream(1), torch.float32)
    with torch.no_grad():
        outcome = net.outcome(auction, bids, present)
        other = net.outcome(auction, bids, ~present)
    assert outcome.allocation[~present].abs().max() == 0
    assert auction.infeasibility(outcome.allocation) <= 1e-6
    assert (outcome.payments - other.payments).abs().max() > 1e-3


@pytest.mark.parametrize("options", NETS)
def test_deviations_equal_full_profiles(options: dict) -> None:
    """The rank-one path gives what the network says about each changed profile; only coordinate i changes."""
    auction = random_auction(2, 2)
    net = wild(auction, graph_input=True, **options).double()
    values, misreports = (
        torch.rand(2, 7, 6, generator=stream(0)).double(),
        torch.rand(5, 7, 6, generator=stream(1)).double(),
    )
    present = graphs.random_presence(7, 4, 3, stream(2))
    fast = deviation_utilities(LearntMechanism(net), auction, values[0], misreports, present)
    slow = deviation_utilities(
        lambda a, b, present: net.outcome(a, b, present), auction, values[0], misreports, present
    )
    assert (fast - slow).abs().max() < 1e-12
    truth = deviation_utilities(LearntMechanism(net), auction, values[0], values[0][None], present)[0]
    assert (truth - auction.utilities(values[0], net.outcome(auction, values[0], present))).abs().max() < 1e-12


@pytest.mark.parametrize("draws", [1, 3, 4])
def test_bidders_deviate_in_their_turn_of_the_profiles(draws: int) -> None:
    """Few deviations are those of everyone in every profile, where bidder i's are its D of the B profiles."""
    auction = random_auction(2, 2)
    net = wild(auction, graph_input=True).double()
    bidders, samples = auction.bidders, 7
    bids = torch.rand(bidders, samples, generator=stream(0), dtype=torch.float64)
    present = graphs.random_presence(samples, len(auction.bundles), 3, stream(2)).T
    lies = torch.rand(bidders, 2, draws, generator=stream(1), dtype=torch.float64)
    everywhere = bids[:, None].expand(-1, 2, -1).clone()
    turns = [torch.arange(i * draws, (i + 1) * draws) % samples for i in range(bidders)]
    for bidder, turn in enumerate(turns):
        everywhere[bidder][:, turn] = lies[bidder]
    few, many = net(bids, lies, present), net(bids, everywhere, present)
    for bidder, turn in enumerate(turns):
        assert torch.equal(at_places(bids, draws)[bidder], bids[bidder, turn])
        for some, full in zip(few[2:], many[2:]):
            assert (some[bidder] - full[bidder][:, turn]).abs().max() < 1e-12


def test_gradients_of_misreports_are_those_of_finite_differences() -> None:
    auction = random_auction(3, 3)
    net = wild(auction, activation="tanh").double()
    bids = torch.rand(6, 4, generator=stream(0), dtype=torch.float64)
    misreports = torch.rand(6, 2, 4, generator=stream(1), dtype=torch.float64, requires_grad=True)

    def utility(lies: Tensor) -> Tensor:
        _, _, clicks, payments = net(bids, lies)
        return bids[:, None] * clicks - payments

    (gradient,) = torch.autograd.grad(utility(misreports).sum(), misreports)
    step = 1e-6
    with torch.no_grad():
        numeric = (utility(misreports + step) - utility(misreports - step)) / (2 * step)
    assert (gradient - numeric).abs().max() < 1e-5


def test_relabelling_changes_nothing() -> None:
    auction = JointAuction(2, 3, [(0, 0), (0, 2), (1, 1), (1, 2)], [0.9, 0.4])
    net = wild(auction, width=12).double()
    stores, brands, order = [1, 0], [2, 0, 1], [3, 1, 0, 2]  # new position -> old
    bidders = torch.tensor([*stores, *(2 + brand for brand in brands)])
    renamed = JointAuction(
        2, 3,
        [(stores.index(auction.bundles[e][0]), brands.index(auction.bundles[e][1])) for e in order], [0.9, 0.4],
    )  # fmt: skip
    other = JRegNet(renamed, width=12).double()
    state = net.state_dict()
    state["weight_in"] = state["weight_in"][:, bidders]
    rows = torch.tensor([*order, 4])  # the dummy bundle stays last
    for name in ("weight_allocation", "bias_allocation"):
        head = state[name].view(2, 5, 3, -1)[:, rows]
        state[name] = head.reshape(state[name].shape)
    for name in ("weight_payment", "bias_payment"):
        state[name] = state[name][bidders]
    other.load_state_dict(state)
    bids = torch.rand(50, 5, generator=stream(0), dtype=torch.float64)
    before, after = net.outcome(auction, bids), other.outcome(renamed, bids[:, bidders])
    assert (before.allocation[:, order] - after.allocation).abs().max() < 1e-12
    assert (before.payments[:, bidders] - after.payments).abs().max() < 1e-12


def test_click_rates_scale_everything_when_inputs_are_bids() -> None:
    half = S1.with_click_rates([0.5, 0.25])
    values = Uniform(4).sample(400, stream(0), torch.float32)
    reports = []
    for auction in (S1, half):
        report = audit(LearntMechanism(wild(auction)), auction, values, Uniform(4), points=11)
        reports.append(torch.tensor([report.revenue, report.regret, report.virtual_welfare, report.welfare]))
    assert torch.allclose(reports[0] * 0.5, reports[1], rtol=1e-6)


def test_slotwise_inputs_are_bids_times_click_rates() -> None:
    auction = random_auction(1, 3)
    net = wild(auction, inputs="slotwise", width=8, depth=1).double()
    bids = torch.rand(6, 5, generator=stream(0), dtype=torch.float64)
    stacked = (bids[:, None] * auction.click_rates[:, None]).reshape(18, 5)
    rows = net._first_layer(bids, bids[:, None][:, :0], None)
    assert torch.allclose(rows, net.weight_in @ stacked + net.bias_in, atol=1e-12)


@pytest.mark.parametrize("search", [{"kind": "local"}, {"kind": "ascent", "steps": 3}])
def test_the_search_leaves_no_gradients_and_stays_in_the_support(search: dict) -> None:
    market = s1_market(distribution="asymmetric")
    learner = RegretLearner(market.auction, market.prior, [0, 1], search=search)
    batch = TrainingProfiles(market, [0, 1], 16, learner.noise, 4).batch(0)
    batch = replace(batch, values=learner.seen(batch.values))
    found = learner.find_misreports(batch) * learner.units.scale
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert (found >= 0).all() and (found <= market.prior.high[:, None, None] + 1e-6).all()
    assert found[:, 2:].max() > 1.0  # brands' support reaches to 2


def test_searches_improve_on_their_starts() -> None:
    """The utility is a parabola: both searches must move towards its top, at 0.6 of the truth."""
    values = torch.rand(1, 3, 50, generator=stream(0)) * 0.8 + 0.1
    low, high = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)

    def utility(misreports: Tensor) -> Tensor:
        return -((misreports - 0.6 * values[:, :, None]) ** 2)

    start = torch.rand(1, 3, 1, 50, generator=stream(1))
    climbed = Ascent(steps=50)(utility, start, low, high)
    assert utility(climbed).mean() > -1e-3 > utility(start).mean()
    search = LocalSearch()
    noise = torch.rand(1, 3, search.noise, 50, generator=stream(2))
    found = search(utility, values, noise, low, high)
    assert (
        utility(found) >= utility(search.candidates(values, noise, low, high, high - low)).amax(2, keepdim=True)
    ).all()
    closer = LocalSearch(refine=(-0.5, -0.25, 0.25, 0.5))(utility, values, noise, low, high)
    assert utility(closer).mean() > utility(found).mean()


@pytest.mark.parametrize("draws", [9, 4, 1])
@pytest.mark.parametrize("options", NETS)
def test_stacked_networks_equal_single_ones(options: dict, draws: int) -> None:
    auction = random_auction(5, 2)
    nets = [wild(auction, seed, graph_input=True, **options) for seed in range(3)]
    stack = Stack(nets)
    bids, lies = torch.rand(3, 6, 9, generator=stream(0)), torch.rand(3, 6, 2, draws, generator=stream(1))
    present = torch.stack([graphs.random_presence(9, len(auction.bundles), 3, stream(seed)).T for seed in range(3)])
    together = stack(bids, lies, present)
    without = stack(bids, lies, present, truth=False)
    assert all((joint - same).abs().max() < 1e-5 for joint, same in zip(together[2:], without))
    for place, net in enumerate(nets):
        for joint, alone in zip(together, net(bids[place], lies[place], present[place])):
            assert (joint[place] - alone).abs().max() < 1e-5
        assert all(torch.equal(a, b) for a, b in zip(stack.single(place).parameters(), net.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"activation": "sine"}, "choose silu"), ({"inputs": "values"}, "bids or slotwise"), ({"depth": 0}, "at least 1")],
)
def test_bad_networks_get_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JRegNet(S1, **options)
