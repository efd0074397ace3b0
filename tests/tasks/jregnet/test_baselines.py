"""The analytic mechanisms against exact fractions, published cells, and each other."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from decathlon.tasks.jregnet import (
    Exponential,
    JointAuction,
    LogNormal,
    Outcome,
    Product,
    TruncatedExponential,
    TwoPeaks,
    Uniform,
    audit,
    best_reserve,
    exact_regret,
    graphs,
    gsp,
    optimal,
    optimal_revenue,
    rvcg,
    vcg,
)
from decathlon.tasks.jregnet.scores import best, bundle_scores, pivot_payments
from tests.tasks.jregnet.markets import B_EDGES, D_EDGES, S1, random_auction, stream, uniform

THREE = [0.5, 0.3, 0.15]
# Setting, then OPT, RVCG, VCG, best welfare, store-only OPT of the table of exact and simulated references.
EXACT = {
    "1x1": (JointAuction(1, 1, [(0, 0)], [1.0]), 1 / 3, 0, -1, 1, 1 / 4),
    "1x2": (JointAuction(1, 2, [(0, 0), (0, 1)], [1.0]), 1 / 2, 1 / 3, -1 / 3, 7 / 6, 1 / 4),
    "2x2 full": (JointAuction(2, 2, graphs.full(2, 2), [1.0]), 11 / 15, 2 / 3, 2 / 3, 4 / 3, 5 / 12),
    "2x2 disjoint": (JointAuction(2, 2, graphs.disjoint(2, 2), [1.0]), 17 / 30, 7 / 15, 3 / 10, 37 / 30, 5 / 12),
    "S1": (S1, 37 / 60, 7 / 30, -17 / 20, 97 / 60, 11 / 24),
}
DECIMAL = {
    "2x2 full, K=2": (JointAuction(2, 2, graphs.full(2, 2), [1.0, 0.5]), 0.934, 0.801, 0.634, 1.900, 11 / 24),
    "3x3 disjoint, K=1": (JointAuction(3, 3, graphs.disjoint(3, 3), [0.7]), 0.515, 0.491, 0.456, 0.945, 0.372),
    "S2": (JointAuction(3, 3, graphs.disjoint(3, 3), THREE), 0.442, 0.245, -0.282, 1.073, 0.326),
    "path": (JointAuction(3, 3, graphs.path(3, 3), [1.0, 0.5]), 1.099, 1.034, 0.957, 2.017, 0.625),
    "5x5": (JointAuction(5, 5, graphs.disjoint(5, 5), [0.5, 0.3, 0.2]), 0.658, 0.604, 0.528, 1.302, 0.480),
    "A": (JointAuction(3, 4, graphs.full(3, 4), [0.7]), 0.775, 0.770, 0.770, 1.085, 0.372),
    "B": (JointAuction(3, 3, B_EDGES, [0.6, 0.3, 0.2]), 0.772, 0.710, 0.630, 1.455, 0.381),
    "D": (JointAuction(3, 5, D_EDGES, THREE), 0.789, 0.767, 0.743, 1.334, 0.327),
    "3x3 full": (JointAuction(3, 3, graphs.full(3, 3), THREE), 0.803, 0.779, 0.764, 1.340, 0.326),
    "E": (JointAuction(3, 5, graphs.full(3, 5), [0.5, 0.3, 0.15, 0.1, 0.03]), 1.056, 1.043, 1.037, 1.602, 0.327),
    "G": (JointAuction(4, 5, graphs.full(4, 5), THREE), 1.087, 1.084, 1.084, 1.492, 0.406),
}


def references(auction: JointAuction, samples: int) -> torch.Tensor:
    """(samples, 5): OPT, RVCG, VCG, best welfare and store-only OPT in each profile."""
    prior = uniform(auction)
    values = prior.sample(samples, stream(0))
    welfare = best(bundle_scores(auction, values), auction.slots) @ auction.click_rates
    stores = values[:, : auction.stores]
    columns = [
        optimal_revenue(auction, values, prior),
        rvcg(auction, values).payments.sum(1),
        vcg(auction, values).payments.sum(1),
        welfare,
        optimal_revenue(auction.traditional(), stores, prior.select(slice(0, auction.stores))),
    ]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("name", EXACT)
def test_exact_fractions(name: str) -> None:
    auction, *exact = EXACT[name]
    seen = references(auction, 200_000)
    error = seen.std(0) / len(seen) ** 0.5
    assert ((seen.mean(0) - torch.tensor(exact)).abs() <= 3 * error + 1e-12).all(), seen.mean(0)


@pytest.mark.parametrize("name", DECIMAL)
def test_decimals(name: str) -> None:
    auction, *decimals = DECIMAL[name]
    seen = references(auction, 25_000 if auction.bidders > 6 else 50_000)
    noise = 3 * seen.std(0) / len(seen) ** 0.5
    off = (seen.mean(0) - torch.tensor(decimals, dtype=torch.float64)).abs()
    assert (off <= noise.clamp_min(0.004) + 0.001).all(), seen.mean(0)  # the table itself is known to 0.001


def test_setting_f() -> None:
    """The table's random graph is not known: what does not depend on it is within 0.004, its level within 0.02.

    Over graphs the optimum has a standard deviation of 0.008; the distances between mechanisms hardly vary.
    """
    f = JointAuction(10, 15, graphs.random(10, 15, 20, stream(0)), [0.5, 0.3, 0.15, 0.12, 0.1])
    table = torch.tensor([1.328, 1.327, 1.326, 1.834, 0.723], dtype=torch.float64)
    seen = references(f, 20_000).mean(0)
    assert seen[4] == pytest.approx(float(table[4]), abs=0.004)
    assert (seen[:3].diff() - table[:3].diff()).abs().max() <= 0.004
    assert (seen - table).abs().max() <= 0.02


def test_other_values() -> None:
    exponential = TruncatedExponential(2, rate=1.0, high=30.0)
    pair = JointAuction(1, 1, [(0, 0)], [1.0])
    assert optimal_revenue(pair, exponential.sample(200_000, stream(2)), exponential).mean() == pytest.approx(
        4 * torch.e**-2, abs=0.006
    )
    asymmetric = Product(Uniform(2), Uniform(2, high=2.0))
    values = asymmetric.sample(200_000, stream(3))
    assert optimal(S1, values, asymmetric).payments.sum(1).mean() == pytest.approx(0.996, abs=0.005)
    assert rvcg(S1, values).payments.sum(1).mean() == pytest.approx(0.373, abs=0.004)


def test_reserve_revenue_and_its_search() -> None:
    values = Uniform(4).sample(100_000, stream(0))
    for reserve, revenue in ((0.5, 0.41), (0.8, 0.57), (1.0, 0.617), (1.2, 0.56)):
        assert rvcg(S1, values, reserve=reserve).payments.sum(1).mean() == pytest.approx(revenue, abs=0.007)
    assert best_reserve(S1, values[:20_000]) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6])
def test_critical_values_are_the_pivots_of_rvcg(slots: int) -> None:
    for seed in range(4):
        auction = random_auction(seed, slots)
        bids = uniform(auction).sample(500, stream(seed))
        outcome = rvcg(auction, bids)
        pivots = pivot_payments(auction, bids, outcome.allocation, absent=False)
        assert (outcome.payments - pivots).abs().max() < 1e-10
        assert auction.infeasibility(outcome.allocation) == 0


PRIORS: dict[str, Callable[[int], object]] = {
    "uniform": Uniform,
    "exponential": Exponential,
    "lognormal": LogNormal,
    "two peaks": TwoPeaks,
}


@pytest.mark.parametrize("kind", PRIORS)
def test_the_optimum_is_truthful_and_earns_its_virtual_welfare(kind: str) -> None:
    for seed, slots in ((0, 1), (1, 2), (2, 5)):
        auction = random_auction(seed, slots)
        prior = PRIORS[kind](auction.bidders)
        values = prior.sample(200, stream(seed))
        assert exact_regret(optimal, auction, values, prior, points=41).regret.max() <= 1e-9
        many = prior.sample(50_000, stream(10 + seed))
        outcome = optimal(auction, many, prior)
        assert auction.utilities(many, outcome).min() >= -1e-12 and outcome.payments.min() >= -1e-12
        virtual = (prior.virtual(many) * auction.clicks(outcome.allocation)).sum(1)
        assert torch.allclose(virtual, optimal_revenue(auction, many, prior), atol=1e-9)
        difference = outcome.payments.sum(1) - virtual
        assert difference.mean().abs() <= 3 * difference.std() / len(many) ** 0.5 + 1e-4


@pytest.mark.parametrize("reserve", [0.0, 0.7])
def test_rvcg_is_truthful(reserve: float) -> None:
    for seed, slots in ((0, 1), (1, 3), (2, 5)):
        auction = random_auction(seed, slots)
        values = uniform(auction).sample(200, stream(seed))
        mechanism = partial(rvcg, reserve=reserve)
        assert exact_regret(mechanism, auction, values, uniform(auction), points=41).regret.max() <= 1e-9
        outcome = mechanism(auction, values)
        assert auction.utilities(values, outcome).min() >= -1e-12 and outcome.payments.min() >= -1e-12


def test_vcg_is_truthful_and_gsp_is_not() -> None:
    auction = random_auction(3, 2)
    values = uniform(auction).sample(100, stream(0))
    assert exact_regret(vcg, auction, values, uniform(auction), points=41).regret.max() <= 1e-9
    stores = auction.traditional()
    regret = exact_regret(gsp, stores, values[:, :3], Uniform(3), points=41).regret
    assert regret.mean() > 1e-3


def test_optimum_is_rvcg_with_reserve_one_for_uniform_values() -> None:
    for seed in range(3):
        auction = random_auction(seed, 3)
        bids = uniform(auction).sample(2_000, stream(seed))
        best_outcome, reserved = optimal(auction, bids, uniform(auction)), rvcg(auction, bids, reserve=1.0)
        assert (best_outcome.payments - reserved.payments).abs().max() < 1e-9
        assert torch.equal(best_outcome.allocation, reserved.allocation)


def test_vcg_differs_from_rvcg_by_the_two_pivots() -> None:
    auction = random_auction(4, 3)
    bids = uniform(auction).sample(1_000, stream(0))
    scores = bundle_scores(auction, bids)[:, None]
    members = auction.incidence.T.bool()
    absent = best(scores.masked_fill(members, -torch.inf), 3) @ auction.click_rates
    at_zero = best(scores - bids[:, :, None] * auction.incidence.T, 3) @ auction.click_rates
    difference = vcg(auction, bids).payments - rvcg(auction, bids).payments
    assert (difference - (absent - at_zero)).abs().max() < 1e-10
    assert difference.sum(1).max() <= 1e-10


JOINT: dict[str, Callable[..., Outcome]] = {
    "rvcg": rvcg,
    "rvcg with reserve": partial(rvcg, reserve=0.9),
    "vcg": vcg,
    "optimal": partial(optimal, prior=LogNormal(6)),
}
ALONE: dict[str, Callable[..., Outcome]] = {
    "gsp": gsp,
    "store-only vcg": vcg,
    "store-only optimal": partial(optimal, prior=LogNormal(3)),
    "store-only reserve": partial(rvcg, reserve=0.4),
}


@pytest.mark.parametrize("name", [*JOINT, *ALONE])
def test_slot_decomposition(name: str) -> None:
    """Payments at any click rates are the sum of those with k slots of rate 1, weighted by the steps of the rates."""
    auction, bids = random_auction(5, 3), LogNormal(6).sample(500, stream(0))
    if name in ALONE:
        auction, bids = auction.traditional(), bids[:, :3]
    mechanism = (JOINT | ALONE)[name]
    parts = [
        step * mechanism(auction.with_click_rates([1.0] * count), bids).payments
        for count, step in enumerate(auction.rate_steps.tolist(), 1)
    ]
    payments = mechanism(auction, bids).payments
    assert payments.abs().max() > 0.05 and (payments - sum(parts)).abs().max() < 1e-9


def test_singletons_are_myersons_position_auction() -> None:
    one = JointAuction(1, 0, [(0, None)], [1.0])
    values = Uniform(1).sample(100_000, stream(0))
    outcome = optimal(one, values, Uniform(1))
    assert set(outcome.payments.mul(1e9).round().div(1e9).flatten().tolist()) == {0.0, 0.5}
    assert outcome.payments.mean() == pytest.approx(0.25, abs=0.005)
    three = JointAuction(3, 0, [(i, None) for i in range(3)], [1.0, 0.5])
    outcome = optimal(three, torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.6, 0.1]], dtype=torch.float64), Uniform(3))
    assert torch.allclose(outcome.payments[0], torch.tensor([0.75, 0.35, 0.0], dtype=torch.float64))
    assert torch.allclose(outcome.payments[1], torch.tensor([0.55, 0.25, 0.0], dtype=torch.float64))


def test_ties_at_atoms_are_broken_and_priced_consistently() -> None:
    """Two bundles at the cap with one slot: the first wins and pays the cap, the other pays nothing."""
    prior = Exponential(4)
    auction = JointAuction(2, 2, graphs.disjoint(2, 2), [1.0])
    outcome = optimal(auction, torch.ones(1, 4), prior)
    assert outcome.allocation[0, :, 0].tolist() == [1.0, 0.0]
    assert outcome.payments[0].tolist() == [1.0, 0.0, 1.0, 0.0]  # bidders 0 and 2 are bundle 0


R2_ONE = {2: (0.526, 0.385), 3: (0.669, 0.601), 4: (0.785, 0.749), 5: (0.884, 0.867)}
R2_EXPONENTIAL = {2: (0.429, 0.282), 3: (0.547, 0.454), 4: (0.657, 0.595), 5: (0.754, 0.702)}
R2_FIVE = {5: (1.422, 0.851), 8: (2.027, 1.879), 10: (2.349, 2.283), 12: (2.609, 2.583)}
CELLS = [
    *((n, [1.0], "uniform", cell) for n, cell in R2_ONE.items()),
    *((n, [1.0], "exponential", cell) for n, cell in R2_EXPONENTIAL.items()),
    *((n, [1.0, 0.8, 0.6, 0.4, 0.2], "uniform", cell) for n, cell in R2_FIVE.items()),
]


@pytest.mark.parametrize(("size", "rates", "kind", "cell"), CELLS)
def test_cells_of_the_follow_up(size: int, rates: list[float], kind: str, cell: tuple[float, float]) -> None:
    """A fresh random graph in every profile: the mean over graphs in one pass."""
    auction = JointAuction(size, size, graphs.full(size, size), rates)
    prior = PRIORS[kind](auction.bidders)
    samples = 8_000 if size > 5 else 20_000
    values = prior.sample(samples, stream(size))
    present = graphs.random_presence(samples, size * size, size, stream(100 + size))
    seen = [
        float(optimal_revenue(auction, values, prior, present).mean()),
        float(rvcg(auction, values, present).payments.sum(1).mean()),
    ]
    assert seen == pytest.approx(cell, abs=0.02)


def test_audit_of_the_baselines_finds_no_leak() -> None:
    values = Uniform(4).sample(2_000, stream(0))
    for mechanism in (rvcg, optimal):
        report = audit(mechanism, S1, values, Uniform(4), regret_profiles=200)
        assert report.regret_max <= 1e-9 and report.ir_violation <= 1e-12
        assert abs(report.ic_excess) <= 4 * report.ic_excess_error
        assert report.virtual_welfare <= report.opt + 1e-9 and report.welfare <= report.best_welfare + 1e-9
    assert audit(optimal, S1, values, Uniform(4), regret_profiles=10).alloc_gap == pytest.approx(0, abs=1e-9)
