"""The baselines: closed forms of their terms, and what every method has to do."""

import math

import pytest
import torch
from torch import Tensor

from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch
from decathlon.runner import catalog
from decathlon.tasks.dive.backbone import Spec
from decathlon.tasks.dive.methods.base import Method, Step
from decathlon.tasks.dive.methods.ciga import contrastive
from decathlon.tasks.dive.methods.coral import covariance_distance
from decathlon.tasks.dive.methods.dann import Reverse
from decathlon.tasks.dive.methods.groupdro import GroupDro
from decathlon.tasks.dive.methods.irm import Irm
from decathlon.tasks.dive.methods.subgraphs import top_edges
from decathlon.tasks.dive.methods.vrex import Vrex
from tests.tasks.dive.toy import MOLECULE, PLAIN, a_batch, backbone

REGRESSION = Spec((7, 3), (4, 2), 1, "regression", 2)
CLASSES_ONLY = {"ciga", "disc"}


METHODS = [name for name in catalog.methods("dive") if name not in ("dive3", "dive4", "independent3")]  # as dive2


def spec_of(name: str) -> dict[str, object]:
    """A method's config, without what the runner would put into it."""
    return {
        key: value for key, value in catalog.read(f"methods/dive/{name}").items() if not str(value).startswith("${")
    }


def make(name: str, spec: Spec) -> Method:
    torch.manual_seed(0)
    return build(spec_of(name), backbone(spec), called="method")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("spec", [PLAIN, MOLECULE, REGRESSION], ids=lambda spec: spec.task)
def test_every_method_learns_a_batch(name: str, spec: Spec) -> None:
    if spec.task == "regression" and name in CLASSES_ONLY:
        with pytest.raises(ConfigError, match="regression"):
            make(name, spec)
        return
    method, batch = make(name, spec), a_batch(12, spec)
    optimizer = torch.optim.Adam(method.parameters(), 3e-2)

    def error() -> float:
        torch.manual_seed(1)
        with torch.no_grad():  # in training mode: the running statistics of so few steps say little
            return float(method.losses(method.predict(batch), batch.y).mean())

    before = error()
    for step in range(12):
        losses = method.loss(batch, Step(step // 2, step / 12))
        assert all(value.isfinite() and value.dim() == 0 for value in losses.values())
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert error() < before
    assert all(p.grad is not None for p in method.parameters()), "a weight that nothing trains"
    method.eval()
    predictions, masks = method.predict_with_masks(batch)
    assert predictions.shape == (method.members, 12, spec.outputs)
    assert (masks is not None) == method.has_masks
    if masks is not None:
        assert masks.shape == (method.members, len(batch.neighbours)) and bool(((masks >= 0) & (masks <= 1)).all())
    again = make(name, spec)
    for k in range(method.members):
        again.load_member(k, method.member_state(k))
    assert torch.equal(again.eval().predict(batch), predictions)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_graphs_without_edges_and_a_single_one(name: str) -> None:
    method = make(name, PLAIN)
    for batch in (a_batch(3, edgeless=True), a_batch(2), a_batch(1)):
        losses = method.loss(batch, Step(0, 0.5))
        assert losses["loss"].isfinite()
        losses["loss"].backward()
        assert method.eval().predict(batch).isfinite().all()
        method.train()


def logits_and_environments() -> tuple[FeatureBatch, Tensor, list[Tensor]]:
    batch = a_batch(12)
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    return batch, logits, [batch.more["env"] == e for e in range(3)]


@pytest.mark.parametrize("kind", [Irm, Vrex, GroupDro])
def test_terms_of_the_methods_with_environments(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, logits, groups = logits_and_environments()
    method = kind(backbone())
    monkeypatch.setattr(kind, "predict", lambda self, batch: logits[None])
    found = method.loss(batch, Step(0, 0.0))
    y = batch.y[:, 0].long()
    risks = torch.stack([torch.nn.functional.cross_entropy(logits[g], y[g]) for g in groups])
    mean = torch.nn.functional.cross_entropy(logits, y)
    if kind is Irm:  # d CE(w z) / dw at 1 = mean of sum_c (softmax - one hot)_c z_c
        slope = ((logits.softmax(1) - torch.nn.functional.one_hot(y, 3)) * logits).sum(1)
        expected = mean + method.penalty * torch.stack([slope[g].mean() for g in groups]).square().mean()
    elif kind is Vrex:
        expected = mean + method.penalty * (risks - risks.mean()).square().mean()
    else:
        expected = ((method.eta * risks).softmax(0) * risks).sum()
    assert torch.allclose(found["loss"], expected, atol=1e-6)


def test_coral_is_the_distance_of_covariances() -> None:
    vectors = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    place = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    c = [torch.cov(vectors[place == e].T) for e in range(3)]
    expected = sum((c[i] - c[j]).square().mean() / 4 for i, j in ((0, 1), (0, 2), (1, 2))) / 3
    assert torch.allclose(covariance_distance(vectors, place, torch.bincount(place)), expected)
    assert covariance_distance(vectors, torch.zeros(9, dtype=torch.int64), torch.tensor([9])) == 0


def test_gradients_are_reversed() -> None:
    x = torch.ones(3, requires_grad=True)
    y = Reverse.apply(x, 0.3)
    y.sum().backward()
    assert torch.equal(y, x) and torch.allclose(x.grad, torch.full((3,), -0.3))


def test_top_edges() -> None:
    batch = a_batch(5)
    score = torch.rand(len(batch.neighbours), generator=torch.Generator().manual_seed(0))
    keep = top_edges(score, batch, 0.3)
    graph = batch.graph[batch.owner]
    for b in range(5):
        here = graph == b
        count = math.ceil(0.3 * int(here.sum()))
        assert int(keep[here].sum()) == count
        assert keep[here].nonzero().flatten().tolist() == sorted(score[here].topk(count).indices.tolist())


def test_contrastive_loss_by_hand() -> None:
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 0, 1, 1, 2])
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    total = []
    for i in range(4):  # the fifth has no positive
        others = [j for j in range(5) if j != i]
        bottom = torch.stack([(unit[i] @ unit[j]).exp() for j in others]).sum().log()
        partner = {0: 1, 1: 0, 2: 3, 3: 2}[i]
        total.append(bottom - unit[i] @ unit[partner])
    assert torch.allclose(contrastive(vectors, y), torch.stack(total).mean())


def test_gsat_asymmetric_has_two_weights_for_an_edge() -> None:
    batch = a_batch()
    one, two = make("gsat", PLAIN), make("gsat_asymmetric", PLAIN)
    masks = one.eval().masks(batch)
    assert torch.equal(masks, masks[:, batch.reverse])
    masks = two.eval().masks(batch)
    assert not torch.allclose(masks, masks[:, batch.reverse])


def test_gsat_divergence_and_its_falling_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributions import Bernoulli, kl_divergence

    method, batch = make("gsat", PLAIN), a_batch(3)
    monkeypatch.setattr(
        "decathlon.tasks.dive.masks.Pairs.uniform",
        lambda self, members, like, generator=None: torch.full_like(like, 0.5),  # no noise
    )
    attention = method.masks(batch).detach()
    for epoch, r in ((0, 0.9), (9, 0.9), (10, 0.8), (25, 0.7), (39, 0.6), (400, 0.5)):
        found = method.loss(batch, Step(epoch, 0.0))["divergence"].detach()
        expected = kl_divergence(Bernoulli(attention), Bernoulli(torch.tensor(r))).mean()
        assert torch.allclose(found, expected, atol=1e-5), epoch


def test_ours_ramp_and_sparsity() -> None:
    batch = a_batch()
    torch.manual_seed(0)
    method = build(
        {**spec_of("dive"), "class": "decathlon.tasks.dive.methods.dive.DiveMethod", "ramp": 0.5}, backbone()
    )
    values = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        torch.manual_seed(1)
        losses = method.loss(batch, Step(0, progress))
        values.append(float((losses["loss"] - torch.stack([losses["loss_0"], losses["loss_1"]]).mean()).detach()))
        jaccard = float(losses["jaccard"])
    assert values == pytest.approx([0.0, 0.25 * jaccard, 0.5 * jaccard, 0.5 * jaccard], abs=1e-6)
    with pytest.raises(ConfigError, match="ramp=2"):
        build({"class": "decathlon.tasks.dive.methods.dive.DiveMethod", "ramp": 2.0}, backbone())
