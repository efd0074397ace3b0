"""Training does not depend on the currency, nor on a long tail or one outlier; a collapse is said loudly."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from decathlon.tasks.jregnet import (
    Discrete,
    Empirical,
    Exponential,
    JointAuction,
    JRegNet,
    LearntMechanism,
    LogNormal,
    Normal,
    Outcome,
    Prior,
    Product,
    TwoPeaks,
    Uniform,
    audit,
    graphs,
    rvcg,
)
from decathlon.tasks.jregnet.affine import AffineLearner
from decathlon.tasks.jregnet.integral import IntegralLearner
from decathlon.tasks.jregnet.learner import RegretLearner
from decathlon.tasks.jregnet.market import Market, TrainingProfiles
from decathlon.tasks.jregnet.methods import Method
from decathlon.tasks.jregnet.module import JointAuctionModule, collapsed
from decathlon.tasks.jregnet.regret import deviation_utilities
from decathlon.tasks.jregnet.training import Schedule, train
from decathlon.tasks.jregnet.units import Units
from tests.tasks.jregnet.markets import S1, s1_market, stream

SMALL = {"width": 16, "depth": 1}
MAKERS: dict[str, Any] = {
    "local": lambda a, p: RegretLearner(a, p, [0, 1], network=SMALL, deviators=1, virtual_weight=1.0),
    "ascent": lambda a, p: RegretLearner(
        a, p, [0, 1], network={**SMALL, "inputs": "slotwise"}, search={"kind": "ascent", "steps": 2}, profiles=64,
        lagrangian={"kind": "augmented", "update_every": 2},
    ),
    "integral": lambda a, p: IntegralLearner(a, p, [0, 1], network=SMALL, points=9),
    "jama": lambda a, p: AffineLearner(a, p, [0, 1]),
}  # fmt: skip


def trained(method: Method, market: Market, iterations: int, batch_size: int = 32) -> Method:
    size = 64 if getattr(method, "cache", None) is not None else None
    return train(method, TrainingProfiles.of(method, market, batch_size, size), Schedule(iterations, 0.01, 5, 0.02))


@pytest.mark.parametrize("name", MAKERS)
def test_values_times_1024_give_the_same_bits_times_1024(name: str) -> None:
    """Training, outcomes and deviations; money is counted in a power of two of a robust quantile."""
    results = []
    for high in (1.0, 1024.0):
        market = s1_market(distribution={"kind": "uniform", "high": high})
        method = trained(MAKERS[name](market.auction, market.prior), market, 12)
        mechanism = method.mechanism(1)
        values, _ = market.profiles("test", 40, 0)
        outcome, lies = mechanism(S1, values), values.roll(1, 0)[None]
        gains = deviation_utilities(mechanism, S1, values, lies)
        results.append(([p.detach() for p in method.parameters()], outcome, gains))
    (weights, outcome, gains), (others, larger, scaled) = results
    assert all(torch.equal(one, other) for one, other in zip(weights, others))
    assert torch.equal(outcome.allocation, larger.allocation) and outcome.allocation.sum() > 0
    assert torch.equal(outcome.payments * 1024, larger.payments)
    assert torch.equal(gains * 1024, scaled)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_training_at_any_scale_earns_its_share(scale: float) -> None:
    market = s1_market(distribution={"kind": "uniform", "high": scale})
    method = trained(RegretLearner(market.auction, market.prior, [0], deviators=1), market, 120, 64)
    values, _ = market.profiles("test", 2000, 0)
    report = audit(method.mechanism(0), S1, values, market.prior, regret_profiles=20)
    assert report.revenue > 0.8 * 7 / 30 * scale  # almost RVCG's, after a seventieth of the schedule
    assert not collapsed(report.revenue, 7 / 30 * scale, report.best_welfare)


HEAVY = JointAuction(4, 3, [(0, 0), (1, 1), (2, 2), (3, 0)], [1.0, 0.5, 0.3])


def log_of(seen: torch.Tensor) -> Market:
    """A market whose values are those of a log, (N, 7)."""
    market = s1_market()
    market.auction, market.prior = HEAVY, Empirical(list(seen.T))
    return market


def test_lognormal_values_with_an_outlier_train() -> None:
    """Seven bidders with a long tail in a currency of hundreds, and one slip of the keyboard among their values."""
    seen = (5.0 + torch.randn(300, 7, generator=stream(3))).exp()
    seen[17, 2] = 1e7
    market = log_of(seen)
    method = RegretLearner(HEAVY, market.prior, [0], deviators=1)
    assert method.units.scale == 1024.0 and method.units.cap.max() < 2e4
    trained(method, market, 120, 64)
    values = (5.0 + torch.randn(2000, 7, generator=stream(4))).exp()
    revenue = method.mechanism(0)(HEAVY, values).payments.sum(1).mean()
    assert revenue > 0.2 * rvcg(HEAVY, values).payments.sum(1).mean()  # after a seventieth of the schedule


@pytest.mark.parametrize(
    "prior", [Uniform(3), Exponential(3), Normal(3), LogNormal(3), TwoPeaks(3)], ids=lambda p: type(p).__name__
)
def test_values_of_size_one_are_trained_as_they_are(prior: Prior) -> None:
    units = Units.of(prior)
    values = prior.sample(100, stream(0), torch.float32)
    assert units.scale == 1.0 and torch.equal(units.bids(values), values)
    assert torch.equal(units.spread, prior.high - prior.low)


def test_units_follow_the_values_and_not_the_support() -> None:
    tail = Units.of(Exponential(2, rate=1.0, cap=1e4))
    assert tail.scale == 4.0 and (tail.cap < 30).all() and (tail.spread < 10).all()
    mostly_nothing = Units.of(Discrete(2, [0.0, 50.0], [0.97, 0.03]))
    assert mostly_nothing.scale == 64.0 and mostly_nothing.cap.tolist() == [50.0, 50.0]
    constant = Units.of(Empirical([torch.tensor([5.0] * 99 + [1e6])] * 2))
    assert constant.scale == 4.0 and (constant.cap < 100).all()
    two = Units.of(Product(Uniform(1), Uniform(1, high=1e-9)))
    assert two.cap.tolist() == [1.0, 1e-9] and two.spread.tolist() == [1.0, 1e-9]


def test_long_tails_enter_the_network_on_a_logarithmic_scale() -> None:
    """The rank-one path, gradients and integral payments know it too; short tails enter as they are."""
    prior = Product(Exponential(2, rate=1.0, cap=1e4), Uniform(2))
    method = RegretLearner(S1, prior, [0], network=SMALL)
    net = method.stack.single(0).double()
    assert isinstance(net, JRegNet) and net.knee is not None
    assert net.knee.isfinite().tolist() == [True, True, False, False]
    bids, lies = torch.rand(2, 4, 5, generator=stream(0)).double()
    raw = torch.cat([(1 + bids[:2] / net.knee[:2, None]).log() / 2, bids[2:]])
    assert torch.allclose(net._first_layer(bids, bids[:, None][:, :0], None), net.weight_in @ raw + net.bias_in)
    mechanism = LearntMechanism(net, method.units)
    fast = deviation_utilities(mechanism, S1, bids.T, lies.T[None])
    slow = deviation_utilities(lambda a, b, present: mechanism(a, b, present), S1, bids.T, lies.T[None])
    assert (fast - slow).abs().max() < 1e-9
    assert RegretLearner(S1, Uniform(4), [0]).units.knee is None


def test_integral_payments_resolve_a_long_tail() -> None:
    """Each payment is the bid times its clicks less a fine sum of the clicks below it, for small and large bids."""
    prior = Exponential(4, rate=1.0, cap=1e4)
    method = IntegralLearner(S1, prior, [0])
    network = method.stack.single(0)
    bids = torch.tensor([[0.3, 1.0, 4.0, 12.0], [2.0, 0.1, 0.7, 0.02]])
    outcome = method.mechanism(0)(S1, bids)
    plain = LearntMechanism(network, method.units)  # type: ignore[arg-type]
    for bidder in range(4):
        levels = torch.linspace(0, 1, 4001)[:, None] * bids[:, bidder]
        profiles = bids.repeat(4001, 1, 1)
        profiles[:, :, bidder] = levels
        clicks = S1.clicks(plain(S1, profiles.flatten(0, 1)).allocation)[:, bidder].view(4001, 2)
        rent = torch.trapezoid(clicks, levels, dim=0)
        expected = bids[:, bidder] * clicks[-1] - rent
        assert torch.allclose(outcome.payments[:, bidder], expected, atol=2e-3)


def test_bids_above_the_cap_are_bids_at_it() -> None:
    """Truthful utility counts the true value, and no payment exceeds the cap."""
    units = Units(2.0, torch.full((4,), 3.0, dtype=torch.float64), torch.ones(4).double())
    mechanism = LearntMechanism(RegretLearner(S1, Uniform(4), [0]).stack.single(0), units)  # type: ignore[arg-type]
    values = torch.tensor([[100.0, 2.0, 1.0, 50.0]])
    outcome, capped = mechanism(S1, values), mechanism(S1, values.clamp(max=3.0))
    assert torch.equal(outcome.payments, capped.payments) and outcome.payments.max() <= 3.0
    truth = deviation_utilities(mechanism, S1, values, values[None])[0]
    assert torch.allclose(truth, S1.utilities(values, outcome), rtol=1e-5)


def test_masks_of_absent_bundles_are_infinite() -> None:
    """At any scale of the boosts; gradients stay finite where all bundles of a profile but one are absent."""
    market = Market({"stores": 2, "brands": 2, "graph": {"kind": "random", "bundles": 1, "per": "sample"}}, 0, [1.0])
    method = AffineLearner(market.auction, market.prior, [0])
    with torch.no_grad():
        method.boosts.fill_(5e3)
    losses, _ = method.losses(TrainingProfiles.of(method, market, 16).batch(0), 1.0)
    losses.sum().backward()
    assert losses.isfinite().all() and all(p.grad.isfinite().all() for p in method.parameters())  # type: ignore
    exact = method.mechanism(0)
    batch = TrainingProfiles.of(method, market, 16).batch(0)
    values, present = batch.values[0].T, batch.present[0].T  # type: ignore[index]
    assert exact(market.auction, values, present).allocation[~present].sum() == 0


def null_module(**options: Any) -> JointAuctionModule:
    """A module whose network sells nothing."""
    method = {
        "class": "decathlon.tasks.jregnet.learner.RegretLearner", "name": "jregnet", "trains": True, "network": SMALL,
    }  # fmt: skip
    setting = {"stores": 2, "brands": 2, "graph": "disjoint"}
    module = JointAuctionModule(
        method, {"setting": setting, "seed": 0, "click_rates": [1.0, 0.5]}, iterations=5, lr=0.1, val_profiles=50,
        test_profiles=50, regret_profiles=4, grid=3, **options,
    )  # fmt: skip
    names = module.method.stack.names  # type: ignore[union-attr]
    with torch.no_grad():
        heads = module.method.stack.stacked[names.index("bias_allocation")].view(-1, 2, 3, 3)  # type: ignore[union-attr]
        heads[:, 0, 2], heads[:, 1, :, 2] = 60.0, 60.0
    return module


def test_a_collapse_is_recorded_and_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    module = null_module(seeds_per_job=2)
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: float(value)}))
    monkeypatch.setattr(module, "_trainer", type("T", (), {"is_global_zero": True, "sanity_checking": False})())
    monkeypatch.setattr(logging.getLogger("decathlon"), "propagate", True)
    for split, end in (("val", module.on_validation_epoch_end), ("test", None)):
        caplog.clear()
        module._records = [module._record(place, split, 50) for place in range(2)]
        module.iteration.fill_(5)
        if end:
            end()
        else:
            module._warn("test", module._log_means("test"))
        assert logged[f"{split}/collapsed"] == 1.0 and logged[f"{split}/revenue"] < 1e-6
        (line,) = set(caplog.messages)
        assert "2 of 2 runs collapsed" in line and "\n" not in line and "RVCG" in line


def test_what_counts_as_collapsed() -> None:
    assert collapsed(4e-5, 322.0, 900.0) and not collapsed(250.0, 322.0, 900.0)
    assert collapsed(0.001, 0.0, 1.0) and not collapsed(0.3, 0.0, 1.0)  # RVCG earns nothing in a market of one bundle


def test_sold_by_hand_is_not_collapsed() -> None:
    """A posted price of half the support for one bundle, where RVCG earns nothing."""
    one = JointAuction(1, 1, graphs.full(1, 1), [1.0])
    values = Uniform(2).sample(500, stream(0))

    def posted(auction: JointAuction, bids: torch.Tensor, present: Any = None) -> Outcome:
        sold = (bids >= 0.5).all(1)
        return Outcome(sold.to(bids)[:, None, None], sold.to(bids)[:, None] * 0.5 * torch.ones_like(bids))

    report = audit(posted, one, values, Uniform(2), points=11, regret_profiles=5)
    assert report.regret_max <= 1e-12
    assert not collapsed(report.revenue, float(rvcg(one, values).payments.sum(1).mean()), report.best_welfare)


def test_a_slip_in_a_log_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    from tests.tasks.jregnet.test_logs import generated, write

    lines = generated(60).splitlines()
    auction, bidder, side, _ = lines[6].split(",")
    lines[6] = f"{auction},{bidder},{side},4500000"
    setting = write(tmp_path, "\n".join(lines) + "\n")
    method = {"class": "decathlon.tasks.jregnet.learner.RegretLearner", "name": "jregnet", "trains": True}
    module = JointAuctionModule(
        method, {"setting": setting, "seed": 0, "click_rates": [1.0], "root": tmp_path}, iterations=1, lr=0.1
    )
    monkeypatch.setattr(module, "_trainer", type("T", (), {"is_global_zero": True})())
    monkeypatch.setattr(logging.getLogger("decathlon"), "propagate", True)
    module.on_fit_start()
    (line,) = set(caplog.messages)
    assert "1 values of the log" in line and f"of {bidder}" in line and "\n" not in line
