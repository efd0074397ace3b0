"""Sampling and overlap: closed forms, gradients, and what reaches which parameters."""

import pytest
import torch
from torch import Tensor

from decathlon.tasks.dive import Dive, Pairs, diversity, independent_jaccard, pairwise_jaccard, sample
from decathlon.tasks.dive.methods.base import Step
from tests.tasks.dive.toy import Edge, Sum, a_batch, dive_method


def draws(n: int, seed: int = 0) -> Tensor:
    return torch.rand(1, n, generator=torch.Generator().manual_seed(seed)).clamp(1e-12, 1 - 1e-7)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keep_rates(p: float) -> None:
    logits = torch.full((1, 1_000_000), p).logit()
    assert abs(sample(logits, draws(1_000_000)).mean() - p) < 0.005
    printed = sample(logits, draws(1_000_000, 1), "printed").mean()
    assert abs(printed - (1 - torch.exp(torch.tensor(-p)))) < 0.005


def test_the_printed_formula_never_keeps_more_than_63_percent() -> None:
    certain = sample(torch.full((1, 1_000_000), 50.0), draws(1_000_000), "printed").mean()
    assert abs(certain - 0.632) < 0.005


@pytest.mark.parametrize("sampler", ["bernoulli", "printed"])
@pytest.mark.parametrize("ste", ["p", "q"])
def test_masks_are_hard_and_their_gradient_is_not(sampler: str, ste: str) -> None:
    logits = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = sample(logits, draws(2000).expand(2, -1), sampler, ste, 0.7)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    mask.sum().backward()
    p = logits.detach().sigmoid()
    if ste == "p":  # dM/dp = 1 also where the edge is dropped
        assert torch.allclose(logits.grad, p * (1 - p), atol=1e-7)
    else:
        u, at = draws(2000).expand(2, -1), logits.detach().clone().requires_grad_()
        noise = u.log() - torch.log1p(-u) if sampler == "bernoulli" else -(-u.log()).log()
        start = at if sampler == "bernoulli" else at.sigmoid().log()
        ((start + noise) / 0.7).sigmoid().sum().backward()
        assert torch.allclose(logits.grad, at.grad, atol=1e-5)


def test_extreme_logits_and_draws_give_numbers() -> None:
    logits = torch.tensor([[-200.0, -50.0, 0.0, 50.0, 200.0]]).requires_grad_()
    pairs = Pairs.of(torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]))
    for sampler in ("bernoulli", "printed"):
        for ste in ("p", "q"):
            mask = sample(logits, pairs.uniform(1, logits), sampler, ste)
            (gradient,) = torch.autograd.grad(mask.sum(), logits)
            assert mask.isfinite().all() and gradient.isfinite().all()


def test_jaccard_of_known_masks() -> None:
    masks = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    table = pairwise_jaccard(masks)
    assert torch.equal(table, table.T) and bool(((table >= 0) & (table <= 1)).all())
    assert torch.allclose(table.diagonal(), torch.tensor([1.0, 1, 1, 0]))  # two empty masks: 0
    assert abs(table[0, 1] - 1 / 3) < 1e-6 and table[0, 2] == 0 and table[2, 3] == 0


def test_jaccard_of_independent_masks() -> None:
    for r in (0.3, 0.8):
        masks = (torch.rand(3, 200_000, generator=torch.Generator().manual_seed(1)) < r).float()
        assert abs(diversity(masks) - r / (2 - r)) < 0.005
        assert abs(independent_jaccard(torch.full((3,), r)) - r / (2 - r)) < 1e-6


def test_gradient_of_the_jaccard_index() -> None:
    a = torch.tensor([1.0, 1, 0, 0, 1, 0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=torch.float64)
    pairwise_jaccard(torch.stack([a, b]))[0, 1].backward()
    inter, union = 2.0, 4.0
    expected = torch.where(b == 1, torch.tensor(1 / union), torch.tensor(-inter / union**2, dtype=torch.float64))
    assert torch.allclose(a.grad, expected, atol=1e-8)
    soft = torch.rand(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    graph = torch.tensor([0, 0, 0, 1, 1, 3, 3])
    assert torch.autograd.gradcheck(diversity, (soft,))
    assert torch.autograd.gradcheck(lambda masks: diversity(masks, graph), (soft,))


def test_diversity_is_the_mean_over_pairs() -> None:
    masks = torch.rand(3, 50, generator=torch.Generator().manual_seed(2))
    table = pairwise_jaccard(masks)
    assert torch.allclose(diversity(masks), (table[0, 1] + table[0, 2] + table[1, 2]) / 3)
    graph = torch.arange(50) // 25 * 2  # a graph without edges between the two
    halves = (diversity(masks[:, :25]) + diversity(masks[:, 25:])) / 2
    assert torch.allclose(diversity(masks, graph), halves)
    assert diversity(masks[:1]) == 0 and diversity(masks[:, :0]) == 0


def test_without_weight_or_company_nothing_is_added_and_members_do_not_meet() -> None:
    batch = a_batch()
    for members, weight in ((1, 0.5), (3, 0.0)):
        method = dive_method(members, diversity=weight)
        torch.manual_seed(1)
        found = method.loss(batch, Step(0, 0.0))["loss"]
        torch.manual_seed(1)
        out = method(batch)
        assert found == method.losses(out.predictions, batch.y).mean(1).mean()
    first = method.losses(out.predictions[0], batch.y).mean()
    first.backward()
    for parameter in method.parameters():
        assert parameter.grad is None or not parameter.grad[1:].any()


def test_the_overlap_reaches_extractors_only() -> None:
    method = dive_method(3)
    method(a_batch()).overlap.backward()
    assert all(p.grad is not None for p in method.extractor.parameters())
    assert any(p.grad.any() for p in method.extractor.parameters())
    assert all(p.grad is None for p in method.classifier.parameters())


def test_one_draw_for_each_undirected_edge_in_any_order() -> None:
    edges = torch.tensor([[0, 1, 1, 2, 0, 3, 4], [1, 0, 2, 1, 3, 3, 0]])  # 0-3 and 4-0 one way only, a self-loop
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    pairs = Pairs.of(edges[:, order])
    drawn = pairs.uniform(2, torch.zeros(1))[:, order.argsort()]
    assert torch.equal(drawn[:, 0], drawn[:, 1]) and torch.equal(drawn[:, 2], drawn[:, 3])
    assert len(drawn[0].unique()) == 5
    logits = torch.arange(7.0)[None]
    found = pairs.average(logits[:, order])[:, order.argsort()]
    assert torch.equal(found[0], torch.tensor([0.5, 0.5, 2.5, 2.5, 4, 5, 6]))
    batch = a_batch()
    fast, slow = Pairs.of_reverse(batch.reverse), Pairs.of(batch.edge_index)
    logits = torch.randn(2, len(batch.neighbours))
    assert torch.allclose(fast.average(logits), slow.average(logits))
    drawn = fast.uniform(2, logits)
    assert torch.equal(drawn, drawn[:, batch.reverse]) and len(drawn[0].unique()) == len(batch.neighbours) // 2


def test_of_ones_own_modules() -> None:
    batch = a_batch()
    torch.manual_seed(0)
    dive = Dive(Edge, Sum, members=3, diversity=0.5)
    out = dive(batch.x, batch.edge_index, batch.graph)
    assert out.masks.shape == (3, len(batch.neighbours)) and out.predictions.shape == (3, 6, 3)
    assert torch.equal(out.masks, out.masks[:, batch.reverse]) and set(out.masks.unique().tolist()) <= {0.0, 1.0}
    y, loss = batch.y[:, 0].long(), torch.nn.functional.cross_entropy
    total = out.loss(y, loss)
    by_hand = torch.stack([loss(one, y) for one in out.predictions]).mean() + 0.5 * diversity(out.masks)
    assert torch.allclose(total, by_hand)
    total.backward()
    assert all(p.grad is not None for p in dive.parameters())
    dive.eval()
    one, two = (dive(batch.x, batch.edge_index, batch.graph) for _ in range(2))
    assert torch.equal(one.predictions, two.predictions) and torch.equal(one.masks, one.logits.sigmoid())


def test_what_people_pass() -> None:
    x, none = torch.ones(3, 1), torch.zeros(2, 0, dtype=torch.int64)
    dive = Dive(Edge, Sum, members=2, jaccard="graph")
    out = dive(x, none, torch.tensor([0, 0, 1]))
    assert out.overlap == 0 and out.loss(torch.tensor([0, 1]), torch.nn.functional.cross_entropy).isfinite()
    double = Dive(Edge, Sum, members=2).double()
    edges = torch.tensor([[0, 1], [1, 0]])
    assert double(x.double(), edges, torch.zeros(3, dtype=torch.int64)).predictions.dtype == torch.float64
    half = Dive(Edge, Sum, members=2).to(torch.bfloat16)
    assert set(half(x.bfloat16(), edges, torch.zeros(3, dtype=torch.int64)).masks.float().unique().tolist()) <= {0, 1}
    for parameter in dive.extractors.parameters():
        parameter.requires_grad_(False)
    dive(x, edges, torch.zeros(3, dtype=torch.int64)).loss(
        torch.tensor([1]), torch.nn.functional.cross_entropy
    ).backward()
    for mode in ("soft", "hard", "sample"):
        still = Dive(Edge, Sum, members=2, eval_mask=mode).eval()
        first, second = (still(x, edges, torch.zeros(3, dtype=torch.int64)).masks for _ in range(2))
        assert torch.equal(first, second)


def test_what_cannot_be_is_one_line() -> None:
    shared = Edge()
    with pytest.raises(ValueError, match="members=0 must be"):
        Dive(Edge, Sum, members=0)
    with pytest.raises(ValueError, match="diversity=-1"):
        Dive(Edge, Sum, diversity=-1)
    with pytest.raises(ValueError, match="share weights"):
        Dive(lambda: shared, Sum, members=2)
    with pytest.raises(ValueError, match="it made a Tensor"):
        Dive(lambda: torch.ones(1), Sum)  # type: ignore[arg-type, return-value]
    for name in ("sampler", "ste", "jaccard", "eval_mask"):
        with pytest.raises(ValueError, match=f"{name}=odd is unknown; choose"):
            Dive(Edge, Sum, **{name: "odd"})
    with pytest.raises(ValueError, match="tau=0"):
        Dive(Edge, Sum, tau=0)
    dive = Dive(Edge, Sum)
    with pytest.raises(ValueError, match="has node 3, there are 3 nodes"):
        dive(torch.ones(3, 1), torch.tensor([[0], [3]]), torch.zeros(3, dtype=torch.int64))
    bad = Dive(lambda: torch.nn.Bilinear(1, 1, 1), Sum)
    bad.extractors[0].forward = lambda x, edge_index, batch: x  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="one logit for each"):
        bad(torch.ones(3, 1), torch.tensor([[0, 1], [1, 0]]), torch.zeros(3, dtype=torch.int64))

    def equal() -> Edge:
        torch.manual_seed(0)
        return Edge()

    with pytest.warns(UserWarning, match="equal weights"):
        Dive(equal, Sum, members=2)
