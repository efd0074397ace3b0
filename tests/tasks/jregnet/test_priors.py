"""Value distributions: sampling, virtual values, ironing, inverses."""

import math
from functools import partial

import pytest
import torch

from decathlon.tasks.jregnet import (
    Copula,
    Empirical,
    Exponential,
    LogNormal,
    Normal,
    Prior,
    Product,
    Table,
    TruncatedExponential,
    TwoPeaks,
    Uniform,
    audit,
    optimal,
    optimal_revenue,
    rvcg,
)
from decathlon.tasks.jregnet.priors.ironing import concave_majorant
from decathlon.tasks.jregnet.priors.tables import POINTS
from tests.tasks.jregnet.markets import S1, random_auction, stream

ALL: dict[str, Prior] = {
    "uniform": Uniform(3, low=[0.0, 0.1, 0.5], high=[1.0, 2.0, 0.7]),
    "exponential": Exponential(3),
    "truncated exponential": TruncatedExponential(3, rate=[1.0, 2.0, 4.0]),
    "normal": Normal(3),
    "lognormal": LogNormal(3),
    "two peaks": TwoPeaks(3),
    "product": Product(Uniform(1), Exponential(2, rate=3.0, cap=2.0)),
    "empirical": Empirical([torch.rand(80, generator=stream(i)) ** 2 for i in range(3)]),
}


@pytest.mark.parametrize("name", ALL)
def test_virtual_values_rise_and_their_inverse_is_the_infimum(name: str) -> None:
    prior = ALL[name]
    grid = prior.low + torch.linspace(0, 1, 401, dtype=torch.float64)[:, None] * (prior.high - prior.low)
    virtual = prior.virtual(grid)
    assert virtual.diff(dim=0).min() >= -1e-12
    scores = torch.linspace(float(virtual.min()) - 0.1, float(virtual.max()) + 0.1, 301, dtype=torch.float64)
    inverse = prior.inverse_virtual(scores[:, None].expand(-1, 3))
    reached = inverse.isfinite()
    assert torch.equal(reached, scores[:, None] <= prior.virtual(prior.high[None]))
    at = prior.virtual(inverse.where(reached, prior.high))
    assert (at >= scores[:, None] - 1e-9)[reached].all()
    below = prior.virtual((inverse - 1e-6).where(reached, prior.high).maximum(prior.low))
    inner = reached & (inverse > prior.low + 1e-6)
    assert (below <= scores[:, None] + 1e-9)[inner].all()


@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_quantiles_and_the_support(name: str) -> None:
    prior = ALL[name]
    values = prior.sample(20_000, stream(1))
    assert (values >= prior.low).all() and (values <= prior.high).all()
    for level in (0.1, 0.5, 0.8):
        share = (values <= prior.quantile(torch.full((1, 3), level, dtype=torch.float64))).double().mean(0)
        assert ((share - level).abs() < 0.015).all()


@pytest.mark.parametrize("name", ALL)
def test_mean_virtual_value_is_the_lowest_price(name: str) -> None:
    """Selling always, to everyone, earns the lowest value: E[phi] = low, for every distribution."""
    prior = ALL[name]
    virtual = prior.virtual(prior.sample(400_000, stream(2)))
    assert ((virtual.mean(0) - prior.low).abs() <= 4 * virtual.std(0) / 400_000**0.5 + 1e-3).all()


def test_ironing_finds_the_closed_forms() -> None:
    levels = torch.linspace(0, 1, POINTS + 1, dtype=torch.float64)[:, None]
    inner = torch.linspace(0.05, 0.95, 100, dtype=torch.float64)[:, None]
    for closed in (Uniform(1), TruncatedExponential(1, rate=2.0)):
        table = Table(closed.quantile(levels).T)
        assert (table.virtual(inner) - closed.virtual(inner)).abs().max() < 5e-3


def test_a_mixture_is_ironed() -> None:
    """Between the peaks phi falls; ironing makes it flat there, and the optimum beats every reserve."""
    prior = TwoPeaks(6)
    flat = prior.virtual(torch.linspace(0, 1, 500, dtype=torch.float64)[:, None].expand(-1, 6))[:, 0].diff()
    assert (flat >= 0).all() and ((flat == 0).sum() > 40)
    auction = random_auction(1, 2)
    values = prior.sample(40_000, stream(0))
    opt = optimal_revenue(auction, values, prior).mean()
    for reserve in torch.linspace(0, 1.6, 17).tolist():
        assert rvcg(auction, values, reserve=reserve).payments.sum(1).mean() <= opt + 0.005


def test_concave_majorant() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert concave_majorant(x, torch.tensor([0.0, 3.0, 2.0, 3.0])).tolist() == [3.0, 0.0, 0.0]
    assert concave_majorant(x, torch.tensor([0.0, 2.0, 3.0, 3.5])).tolist() == [2.0, 1.0, 0.5]


def test_the_copula_correlates_and_claims_no_bound() -> None:
    prior = Copula(Uniform(4), 0.6)
    values = prior.sample(50_000, stream(0))
    spearman = torch.corrcoef(values.T)[0, 1:]
    assert (spearman - 6 / torch.pi * torch.asin(torch.tensor(0.3))).abs().max() < 0.02
    assert values.mean().item() == pytest.approx(0.5, abs=0.01)
    auction = random_auction(0, 2, size=2, bundles=2)
    report = audit(optimal, auction, values[:500], prior, regret_profiles=20)
    assert all(torch.isnan(torch.tensor(x)) for x in (report.opt, report.gap, report.virtual_welfare, report.ic_excess))
    assert report.revenue > 0 and not prior.independent


def test_select_keeps_the_bidders() -> None:
    for name, prior in ALL.items():
        part = prior.select(slice(1, 3))
        levels = torch.tensor([[0.3, 0.6]], dtype=torch.float64)
        whole = prior.quantile(torch.tensor([[0.5, 0.3, 0.6]], dtype=torch.float64))
        assert torch.allclose(part.quantile(levels), whole[:, 1:]), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Uniform, 2, low=1.0, high=0.5), "low < high"),
        (partial(Uniform, 2, high=[1.0, 2.0, 3.0]), "one for each of the 2 bidders"),
        (partial(Exponential, 2, rate=-1.0), "rate must be positive"),
        (partial(Copula, Uniform(2), 1.5), "correlation=1.5"),
        (partial(Normal, 2, std=0.0), "std > 0"),
    ],
)
def test_bad_distributions_get_one_line(make: partial, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("cap", [0.7, 0.9, 1.0])
def test_the_atom_is_recognised_in_float32(cap: float) -> None:
    """Rounded to float32 the cap 0.7 is a little less, 0.9 too: still the atom, whose virtual value is the cap."""
    prior = Exponential(4, rate=2.0, cap=cap)
    values = prior.sample(20_000, stream(0), torch.float32)
    atoms = values == values.max()
    assert atoms.double().mean().item() == pytest.approx(math.exp(-2 * cap), abs=0.01)
    for precise in (values, values.double()):
        assert torch.allclose(prior.virtual(precise)[atoms], torch.tensor(cap).to(precise))
        assert (prior.virtual(precise)[~atoms] < cap - 0.4).all()
    report = audit(optimal, S1, values, prior, regret_profiles=5, points=11)
    assert abs(report.ic_excess) <= 4 * report.ic_excess_error


@pytest.mark.parametrize("name", ALL)
def test_priors_follow_the_device_of_the_values(name: str) -> None:
    """On the meta device, which refuses operands from any other."""
    values = torch.empty(5, 3, device="meta")
    for method in (ALL[name].quantile, ALL[name].virtual, ALL[name].inverse_virtual, ALL[name].transform):
        assert method(values).device.type == "meta" and method(values).shape == (5, 3)


def test_select_keeps_what_is_declared() -> None:
    for make in (Normal, Uniform):
        prior = make(3)
        prior.independent = False
        assert not prior.select(slice(0, 2)).independent and make(3).select(slice(0, 2)).independent
    mixed = Product(Uniform(2), Copula(Uniform(2), 0.5))
    assert not mixed.independent and mixed.select(slice(0, 2)).independent
    assert not mixed.select(slice(1, 3)).independent
    declared = Product(Uniform(2), Uniform(2))
    declared.independent = False
    assert not declared.select(slice(0, 2)).independent
