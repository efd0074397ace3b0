"""Values with atoms and ironed pieces: the optimum earns what a linear program does, and is truthful at every scale."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.sparse import lil_matrix

from decathlon.tasks.jregnet import (
    Discrete,
    Empirical,
    JointAuction,
    Prior,
    Table,
    TwoPeaks,
    audit,
    exact_regret,
    graphs,
    optimal,
    optimal_revenue,
    rvcg,
)
from tests.tasks.jregnet.markets import stream

PRICES, REGULAR, IRREGULAR = [1.0, 2.0, 4.0], [0.5, 0.3, 0.2], [0.45, 0.1, 0.45]  # the second must be ironed
ONE = JointAuction(1, 1, [(0, 0)], [1.0])
DISJOINT = JointAuction(2, 2, graphs.disjoint(2, 2), [1.0, 0.4])
PATH = JointAuction(2, 1, [(0, 0), (1, 0)], [0.9, 0.3])
HYBRID = JointAuction(1, 2, [(0, None), (None, 1), (0, 0), (0, 1)], [1.0, 0.5])
MARKETS = {"one": ONE, "disjoint": DISJOINT, "path": PATH, "hybrid": HYBRID}


def profiles(count: int, chances: list[float], bidders: int) -> tuple[np.ndarray, np.ndarray]:
    """All type profiles (L, n) and their probabilities (L,)."""
    types = np.array(list(itertools.product(range(count), repeat=bidders)))
    return types, np.prod(np.asarray(chances)[types], 1)


def best_of_all(auction: JointAuction, prices: list[float], chances: list[float]) -> float:
    """The largest revenue of any Bayesian incentive-compatible, interim rational mechanism, by linear programming.

    Variables: the allocation in every profile, and the expected payment of every type of every bidder.
    """
    n, bundles, slots, count = auction.bidders, len(auction.bundles), auction.slots, len(prices)
    types, weights = profiles(count, chances, n)
    shown, charged = len(types) * bundles * slots, n * count

    def place(line: int, bundle: int, slot: int) -> int:
        return (line * bundles + bundle) * slots + slot

    interim = lil_matrix((charged, shown + charged))  # expected clicks of each type of each bidder
    for line, row in enumerate(types):
        for bundle, slot in itertools.product(range(bundles), range(slots)):
            for bidder in auction.members[bundle]:
                chance = weights[line] / chances[row[bidder]] * float(auction.click_rates[slot])
                interim[bidder * count + row[bidder], place(line, bundle, slot)] += chance
    rows = lil_matrix((n * count * (count + 1) + len(types) * (bundles + slots), shown + charged))
    limits, at = np.zeros(rows.shape[0]), 0
    for bidder, true in itertools.product(range(n), range(count)):
        own = bidder * count + true
        for lie in (None, *range(count)):  # truth is at least as good as staying away, and as any lie
            rows[at] = -prices[true] * interim[own]
            rows[at, shown + own] += 1
            if lie is not None:
                other = bidder * count + lie
                rows[at] += prices[true] * interim[other]
                rows[at, shown + other] -= 1
            at += 1
    for line in range(len(types)):
        for bundle in range(bundles):
            rows[at, [place(line, bundle, slot) for slot in range(slots)]] = 1
            limits[at], at = 1, at + 1
        for slot in range(slots):
            rows[at, [place(line, bundle, slot) for bundle in range(bundles)]] = 1
            limits[at], at = 1, at + 1
    gains = np.zeros(shown + charged)
    for bidder, true in itertools.product(range(n), range(count)):
        gains[shown + bidder * count + true] = -chances[true]
    bounds = [(0, 1)] * shown + [(None, None)] * charged
    done = linprog(gains, A_ub=rows.tocsr(), b_ub=limits, bounds=bounds, method="highs")
    assert done.status == 0
    return -done.fun


def earned(auction: JointAuction, prior: Prior, prices: list[float], chances: list[float]) -> tuple[float, float]:
    """The optimum's expected payments and expected best virtual welfare over all profiles."""
    types, weights = profiles(len(prices), chances, auction.bidders)
    values, share = torch.tensor(prices).double()[torch.from_numpy(types)], torch.from_numpy(weights)
    paid = optimal(auction, values, prior).payments.sum(1)
    return float(paid @ share), float(optimal_revenue(auction, values, prior) @ share)


@pytest.mark.parametrize("chances", [REGULAR, IRREGULAR], ids=["regular", "ironed"])
@pytest.mark.parametrize("name", MARKETS)
def test_the_optimum_of_atoms_is_that_of_a_linear_program(name: str, chances: list[float]) -> None:
    auction = MARKETS[name]
    reference = best_of_all(auction, PRICES, chances)
    exact = earned(auction, Discrete(auction.bidders, PRICES, chances), PRICES, chances)
    assert exact == pytest.approx((reference, reference), rel=1e-9)
    counts = [round(1000 * chance) for chance in chances]
    seen = torch.tensor(PRICES).repeat_interleave(torch.tensor(counts))
    observed = earned(auction, Empirical([seen] * auction.bidders), PRICES, chances)
    assert observed == pytest.approx((reference, reference), rel=2e-3)  # its table has 4096 intervals


@pytest.mark.parametrize("scale", [1e-3, 1e4, 1e9])
def test_the_optimum_is_truthful_on_ironed_pieces_at_every_scale(scale: float) -> None:
    auction = JointAuction(3, 2, graphs.full(3, 2), [1.0, 0.5])
    ironed = [
        TwoPeaks(5, means=(0.25 * scale, 0.75 * scale), stds=(0.08 * scale, 0.08 * scale), high=scale),
        Discrete(5, [scale * price for price in PRICES], IRREGULAR),
    ]
    for prior in ironed:
        values = prior.sample(25, stream(0))
        found = exact_regret(optimal, auction, values, prior, points=101)
        assert found.regret.max() <= 1e-9 * scale
        outcome = optimal(auction, values, prior)
        assert auction.utilities(values, outcome).min() >= -1e-9 * scale
        report = audit(optimal, auction, values, prior, regret_profiles=2, points=5)
        assert report.alloc_gap == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_analytic_mechanisms_scale_with_money(scale: float) -> None:
    """Integer bids, so that ties are common: payments are the scale times those at scale 1."""
    auction = JointAuction(3, 2, graphs.full(3, 2), [1.0, 0.5])
    bids = torch.randint(0, 4, (300, 5), generator=stream(0)).double()
    for mechanism, scaled in (
        (rvcg, rvcg), (partial(rvcg, reserve=2.0), partial(rvcg, reserve=2.0 * scale)),
        (partial(optimal, prior=Discrete(5, [0, 1, 2, 3])),
         partial(optimal, prior=Discrete(5, [0, scale, 2 * scale, 3 * scale]))),
    ):  # fmt: skip
        small, large = mechanism(auction, bids).payments, scaled(auction, bids * scale).payments
        assert (small * scale - large).abs().max() <= 1e-10 * scale


def test_atoms_in_a_table_are_prices() -> None:
    """Half a continuous stretch, half an atom at 0.8: a score that only the atom reaches costs 0.8."""
    row = torch.cat([torch.linspace(0, 0.6, 51, dtype=torch.float64), torch.full((50,), 0.8, dtype=torch.float64)])
    prior = Table(row.repeat(1, 1))
    below, atom = prior.virtual(torch.tensor([[0.79], [0.8]], dtype=torch.float64)).flatten().tolist()
    assert atom == pytest.approx(0.8) and below < 0.65
    scores = torch.linspace(below + 1e-6, atom, 7, dtype=torch.float64)[:, None]
    assert prior.inverse_virtual(scores).eq(0.8).all()
    rounded = torch.tensor([[0.8]], dtype=torch.float32)
    assert prior.virtual(rounded).item() == pytest.approx(0.8)


def test_observed_ties_are_atoms_and_single_observations_are_spread() -> None:
    prior = Empirical([torch.tensor([1.0] * 30 + [2.0] * 30 + [4.0] * 40), torch.linspace(0.1, 4.0, 100)])
    drawn = prior.sample(20_000, stream(0))
    atoms = torch.isin(drawn[:, 0], torch.tensor([1.0, 2.0, 4.0]).double())
    assert atoms.double().mean() > 0.995
    assert [float((drawn[:, 0] == price).double().mean()) for price in (1, 2, 4)] == pytest.approx(
        [0.3, 0.3, 0.4], abs=0.015
    )
    assert len(drawn[:, 1].unique()) > 15_000
    assert prior.low.tolist() == [0.0, 0.0] and prior.high.tolist() == pytest.approx([4.0, 4.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Discrete, 2, [1.0]), "two different"),
        (partial(Discrete, 2, [1.0, 1.0]), "two different"),
        (partial(Discrete, 2, [1.0, float("nan")]), "two different finite"),
        (partial(Discrete, 2, [1.0, 2.0], [0.5, 0.6]), "chances that sum to 1"),
        (partial(Discrete, 2, [1.0, 2.0], [1.0]), "2 positive chances"),
        (partial(Discrete, 0, [1.0, 2.0]), "at least one bidder"),
        (partial(Empirical, [torch.ones(3), torch.zeros(3)]), "bidder 1 needs finite observations"),
        (partial(Empirical, [torch.tensor([1.0, float("nan")])]), "bidder 0 needs finite"),
        (partial(Empirical, []), "at least one bidder"),
        (partial(Table, torch.tensor([[0.0, float("nan")]])), "finite numbers"),
        (partial(Table, torch.tensor([1.0, 2.0])), "quantiles must be"),
    ],
)
def test_bad_atoms_get_one_line(make: partial, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
