"""Training: the limits of the multiplier, the small scale, bookkeeping, stacked seeds."""

from typing import Any

import pytest
import torch

from decathlon.errors import ConfigError
from decathlon.tasks.jregnet import (
    Audit,
    IntegralPayments,
    JRegNet,
    Uniform,
    audit,
    exact_regret,
    optimal,
)
from decathlon.tasks.jregnet.affine import AffineLearner
from decathlon.tasks.jregnet.integral import IntegralLearner
from decathlon.tasks.jregnet.learner import RegretLearner
from decathlon.tasks.jregnet.market import Market, TrainingProfiles
from decathlon.tasks.jregnet.methods import Method
from decathlon.tasks.jregnet.multipliers import Multipliers
from decathlon.tasks.jregnet.training import Schedule, adam, iterate, train
from tests.tasks.jregnet.markets import S1, s1_market, stream

OPT, RVCG, WELFARE = 37 / 60, 7 / 30, 97 / 60


def trained(method: Method, market: Market, iterations: int, batch_size: int = 128, lr: float = 1e-2) -> Method:
    profiles = TrainingProfiles.of(method, market, batch_size)
    return train(method, profiles, Schedule(iterations, lr, warmup=50, final_lr=0.02))


def judged(method: Method, market: Market, place: int = 0, regret_profiles: int = 300) -> Audit:
    values, present = market.profiles("test", 10_000, 0)
    values, present = method.own(values, present)
    return audit(
        method.mechanism(place), method.auction, values, method.prior, present, regret_profiles=regret_profiles
    )


def ramp(start: float, end: float) -> dict[str, Any]:
    return {"kind": "ramp", "start": start, "end": end}


@pytest.fixture(scope="module")
def s1() -> tuple[Method, Audit]:
    """S1 at a fifth of its small-scale schedule."""
    market = s1_market()
    method = RegretLearner(market.auction, market.prior, [0], network={"payments": "slots"}, deviators=1)
    trained(method, market, 800)
    return method, judged(method, market)


def test_without_a_price_for_regret_everyone_pays_its_bid() -> None:
    market = s1_market()
    method = trained(
        RegretLearner(market.auction, market.prior, [0], lagrangian=ramp(0, 0), deviators=1), market, 300, 64
    )
    report = judged(method, market)
    assert report.revenue > 0.9 * WELFARE and report.regret > 0.1
    assert report.ic_excess > 0.5  # revenue above the optimum is a leak


def test_an_infinite_price_gives_the_null_mechanism() -> None:
    market = s1_market()
    method = trained(
        RegretLearner(market.auction, market.prior, [0], lagrangian=ramp(1e4, 1e4), deviators=1), market, 200, 64
    )
    assert judged(method, market).revenue < 0.05


def test_small_scale(s1: tuple[Method, Audit]) -> None:
    """A fifth of the iterations: the bounds of the full schedule, with more regret allowed."""
    report = s1[1]
    assert 0.5 <= report.revenue <= 0.66 and report.regret <= 6e-4
    assert report.revenue > 2 * RVCG and report.virtual_welfare <= report.opt


def test_ic_excess_is_bounded_by_regret(s1: tuple[Method, Audit]) -> None:
    report = s1[1]
    assert report.ic_excess >= -3 * report.ic_excess_error
    assert report.ic_excess <= 2 * (OPT * report.regret_sum) ** 0.5 + report.regret_sum
    assert report.ir_violation <= 1e-6 and report.welfare <= report.best_welfare


@pytest.mark.slow
def test_small_scale_in_full() -> None:
    market = s1_market()
    method = trained(RegretLearner(market.auction, market.prior, [0]), market, 4_000)
    report = judged(method, market, regret_profiles=2_000)
    assert 0.53 <= report.revenue <= 0.63 and report.regret <= 3e-4 and report.revenue > 2 * RVCG


def test_one_store_learns_the_posted_price() -> None:
    """One bidder, one slot, U[0,1]: revenue 0.25 at regret below 5e-4."""
    market = Market({"stores": 1, "brands": 1, "graph": "full"}, 0, [1.0])
    method = RegretLearner(market.auction, market.prior, [0], bidders="stores")
    assert method.auction.members == [(0,)]
    trained(method, market, 800)
    report = judged(method, market)
    assert report.revenue == pytest.approx(0.25, abs=0.01) and report.regret < 5e-4


def test_affine_maximizer_finds_the_optimum_of_uniform_values() -> None:
    market = s1_market()
    method = trained(AffineLearner(market.auction, market.prior, [0]), market, 400, 64, lr=0.02)
    report = judged(method, market, regret_profiles=50)
    assert report.virtual_welfare >= 0.99 * report.opt and report.regret <= 1e-9


def test_integral_payments_are_truthful_up_to_quadrature() -> None:
    market = s1_market()
    method = trained(IntegralLearner(market.auction, market.prior, [0]), market, 400)
    network = method.stack.single(0)  # type: ignore[attr-defined]
    values, _ = market.profiles("test", 4_000, 0)
    regrets = []
    for points in (17, 33, 65):
        mechanism = IntegralPayments(network, market.prior.low, market.prior.high, points)
        regrets.append(exact_regret(mechanism, S1, values[:60], market.prior, points=26).regret.mean())
    assert regrets[0] > regrets[1] > regrets[2] and regrets[2] < 2e-4
    outcome = IntegralPayments(network, market.prior.low, market.prior.high, 65)(S1, values)
    assert S1.utilities(values, outcome).min() >= -1e-6 and outcome.payments.min() >= -2e-3
    clicks = S1.clicks(outcome.allocation)
    difference = (outcome.payments - market.prior.virtual(values) * clicks).sum(1)
    assert difference.mean().abs() <= 3 * difference.std() / 4_000**0.5 + 1e-3
    assert (market.prior.virtual(values) * clicks).sum(1).mean() > 0.85 * OPT


def test_integrals_are_exact_for_cubics() -> None:
    """A fake network whose clicks are the cube of the own bid: rent is top^4 / 4, whatever the cells."""

    class Cubic(JRegNet):
        def forward(self, bids: Any, misreports: Any, present: Any = None, truth: bool = True) -> Any:
            return misreports**3, misreports

    payments = IntegralPayments(Cubic(S1), torch.zeros(4), torch.ones(4), points=9)
    tops = torch.rand(4, 5, 7, generator=stream(0))
    _, rent = payments.clicks_and_rent(torch.rand(4, 7), tops, None)
    assert torch.allclose(rent, tops**4 / 4, atol=1e-6)
    with pytest.raises(ValueError, match="odd number"):
        IntegralPayments(Cubic(S1), torch.zeros(4), torch.ones(4), points=4)


def paper(market: Market, seeds: list[int], **lagrangian: Any) -> RegretLearner:
    """The published algorithm in small: fixed profiles, cached misreports, gradient ascent, augmented Lagrangian."""
    schedule = {"kind": "augmented", "start": 2.0, "update_every": 2, "rho": 0.5, "rho_step": 0.25, "rho_every": 3}
    return RegretLearner(
        market.auction, market.prior, seeds, network={"width": 16, "activation": "tanh", "inputs": "slotwise"},
        search={"kind": "ascent", "steps": 3}, lagrangian={**schedule, **lagrangian}, profiles=64,
    )  # fmt: skip


def test_augmented_lagrangian_keeps_its_books() -> None:
    market = s1_market()
    method = paper(market, [0, 1])
    profiles = TrainingProfiles(market, [0, 1], 16, method.noise, 4, size=64)
    optimizer, schedule = adam(method, 1e-2), Schedule(12, 1e-2)
    expected, rho = torch.full((2, 4), 2.0), 0.5
    for step in range(12):
        batch = profiles.batch(step)
        iterate(method, batch, optimizer, schedule, step)
        if (step + 1) % 2 == 0:  # with the same batch and misreports, and the new weights
            with torch.no_grad():
                expected = expected + rho * method.objectives(batch, method._last[1])[1]
        if (step + 1) % 3 == 0:
            rho += 0.25
        assert torch.equal(method.multipliers.multiplier, expected)
        assert float(method.multipliers.rho) == rho
    assert (expected > 2.0).any()


def test_cached_misreports_belong_to_their_profiles() -> None:
    market = s1_market()
    method = paper(market, [0])
    assert method.cache is not None
    before = method.cache.clone()
    profiles = TrainingProfiles(market, [0], 16, method.noise, 4, size=64)
    batch = profiles.batch(0)
    found = method.find_misreports(batch)
    index = batch.index[0]  # type: ignore[index]
    changed = (method.cache != before).flatten(2).any(2)[0]
    assert set(changed.nonzero().flatten().tolist()) <= set(index.tolist()) and changed.sum() > 10
    assert torch.equal(method.cache[0, index, :, 0], found[0, :, 0].T)
    orders = [torch.cat([profiles.batch(turn * 4 + k).index[0] for k in range(4)]) for turn in (0, 1)]  # type: ignore
    assert all(sorted(order.tolist()) == list(range(64)) for order in orders)
    assert not torch.equal(orders[0], orders[1])
    values, _ = market.profiles("train", 64, 0)
    assert torch.equal(batch.values[0].T, values[index])


@pytest.mark.parametrize(("deviators", "draws"), [(None, 10), (1, 3), (3, 8)])
def test_loss_follows_the_definition(deviators: int | None, draws: int) -> None:
    """revenue, regret and loss against a slow evaluation with full profiles, two misreports per bidder.

    With fewer deviators bidder i deviates in its turn of the profiles, and its regret is the mean over these.
    """
    market = s1_market()
    method = RegretLearner(
        market.auction, market.prior, [0], search={"kind": "ascent", "steps": 1, "count": 2},
        lagrangian={"kind": "augmented", "start": 3.0, "rho": 4.0}, deviators=deviators,
    )  # fmt: skip
    assert method.draws(10) == draws
    batch = TrainingProfiles.of(method, market, 10).batch(0)
    losses, _ = method.losses(batch, 0.0)
    misreports, values = method._last[1], batch.values[0].T  # type: ignore[union-attr]
    assert misreports is not None
    net = method.stack.single(0)
    assert isinstance(net, JRegNet)
    truth = net.outcome(S1, values)
    utilities = S1.utilities(values, truth)
    regrets = torch.zeros(4)
    for bidder in range(4):
        gains = []
        turn = torch.arange(bidder * draws, (bidder + 1) * draws) % 10
        for place in range(2):
            bids = values.clone()
            bids[turn, bidder] = misreports[0, bidder, place]
            gains.append((S1.utilities(values, net.outcome(S1, bids)) - utilities)[:, bidder].clamp_min(0))
        regrets[bidder] = torch.stack(gains).amax(0)[turn].mean()
    loss = -truth.payments.sum(1).mean() + 3 * regrets.sum() + 2 * regrets.square().sum()
    assert losses.item() == pytest.approx(loss.item(), abs=1e-5)


def test_bad_deviators_get_one_line() -> None:
    market = s1_market()
    with pytest.raises(ValueError, match="deviators=0 must be at least 1"):
        RegretLearner(market.auction, market.prior, [0], deviators=0)
    with pytest.raises(ValueError, match="cached misreports of gradient ascent need all bidders"):
        RegretLearner(market.auction, market.prior, [0], search={"kind": "ascent"}, profiles=64, deviators=1)
    assert RegretLearner(market.auction, market.prior, [0], deviators=9).draws(16) == 16  # all four


@pytest.mark.parametrize("deviators", [None, 1])
def test_stacked_seeds_train_as_if_alone(deviators: int | None) -> None:
    market = s1_market()

    def learner(seeds: list[int]) -> Method:
        return RegretLearner(market.auction, market.prior, seeds, deviators=deviators)

    together = trained(learner([3, 4, 5]), market, 30, batch_size=32)
    for place, seed in enumerate((3, 4, 5)):
        alone = trained(learner([seed]), market, 30, batch_size=32)
        for joint, single in zip(together.stack.stacked, alone.stack.stacked):  # type: ignore[attr-defined]
            assert torch.allclose(joint[place], single[0], atol=2e-3)
    first, second = (together.stack.single(k).weight_in for k in (0, 1))  # type: ignore[attr-defined]
    assert not torch.equal(first, second)


def test_training_batches_are_functions_of_seed_and_step() -> None:
    market = s1_market()
    one, two = (TrainingProfiles(market, [7], 8, 3, 4) for _ in range(2))
    one.batch(0)
    assert torch.equal(one.batch(5).values, two.batch(5).values)
    assert torch.equal(one.batch(5).noise, two.batch(5).noise)
    assert not torch.equal(one.batch(5).values, one.batch(6).values)
    assert not torch.equal(one.batch(5).values, one.batch(5, rank=1).values)
    stores = TrainingProfiles(market, [7], 8, 3, 2)
    assert torch.equal(stores.batch(5).values, one.batch(5).values[:, :2])


def test_devices_share_a_fixed_training_set() -> None:
    """Two devices take every other batch of one pass; one alone takes what it always did."""
    market = s1_market()
    alone, first, second = (TrainingProfiles(market, [7], 8, 3, 4, size=64) for _ in range(3))
    for step in range(12):
        parts = [one.batch(step, rank, 2) for rank, one in enumerate((first, second))]
        for rank, part in enumerate(parts):
            expected = alone.batch(2 * step + rank)
            assert torch.equal(part.index, expected.index)  # type: ignore[arg-type]
            assert torch.equal(part.values, expected.values)
        assert not torch.equal(parts[0].noise, parts[1].noise)
    both = list(enumerate((first, second)))
    passes = torch.cat([one.batch(step, rank, 2).index[0] for step in range(4) for rank, one in both])  # type: ignore
    assert sorted(passes.tolist()) == list(range(64))


def test_the_cache_of_misreports_is_that_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices with the same weights, one after the other here: both end with what both have found."""
    market = s1_market()
    profiles = TrainingProfiles(market, [0], 16, 1, 4, size=64)
    batches = [profiles.batch(0, rank, 2) for rank in (0, 1)]
    found = [paper(market, [0]).find_misreports(batch) for batch in batches]
    exchange: dict[int, list[Any]] = {2: [batch.index for batch in batches], 4: found}
    monkeypatch.setattr("decathlon.tasks.jregnet.learner.gather", lambda part: exchange[part.dim()])
    for batch in batches:
        method = paper(market, [0])
        method.find_misreports(batch)
        for other, theirs in zip(batches, found):
            assert method.cache is not None and other.index is not None
            assert torch.equal(method.cache[0, other.index[0], :, 0], theirs[0, :, 0].T)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"kind": "dual"}, "choose ramp or augmented"),
        ({"kind": "ramp", "rho": 1}, "option rho; choose start, end, share"),
    ],
)
def test_bad_schedules_get_one_line(schedule: dict, message: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        Multipliers(1, 2, schedule)


def test_ramp() -> None:
    multipliers = Multipliers(1, 2, {"kind": "ramp", "start": 5, "end": 60, "share": 0.5})
    for progress, value in ((0.0, 5.0), (0.25, 32.5), (0.5, 60.0), (0.9, 60.0)):
        multipliers.begin(progress)
        assert multipliers.multiplier.eq(value).all()
    assert not multipliers.due(100)


def test_learnt_allocation_never_beats_the_optimum() -> None:
    prior = Uniform(4)
    values = prior.sample(5_000, stream(0), torch.float32)
    net = JRegNet(S1, generator=stream(1))
    allocation = net.outcome(S1, values).allocation.detach()
    assert (prior.virtual(values) * S1.clicks(allocation)).sum(1).mean() <= (
        prior.virtual(values) * S1.clicks(optimal(S1, values, prior).allocation)
    ).sum(1).mean()
