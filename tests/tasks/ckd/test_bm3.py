"""BM3: its own losses in the ranking loss's place, what they see, and that every method goes with them."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from decathlon.errors import ConfigError
from decathlon.recommendation.samplers import Triples
from decathlon.tasks.ckd.methods.balance import (
    Auxiliary,
    GradientBlending,
    GradientModulation,
    MMPareto,
    ModalityDropout,
    ModalityRates,
)  # fmt: skip
from decathlon.tasks.ckd.methods.base import Method
from decathlon.tasks.ckd.methods.distil import CKD, UMT
from decathlon.tasks.ckd.training import Step
from tests.tasks.ckd.worlds import ITEMS, SETTINGS, backbone, features, trained


def at(number: int = 0, seed: int = 0, **options: float) -> Step:
    """A step of a trained model, in training mode."""
    model, training = trained("bm3", **options)
    model.train()
    return Step(number, seed, model, training.sampler.batch(0), SETTINGS, {})


@pytest.mark.parametrize("keep", [None, ("text",), ()])
def test_the_loss_without_dropout_by_hand(keep: tuple[str, ...] | None) -> None:
    step = at(dropout=0.0, layers=2, weight=0.7)
    model, (user, item, _) = step.backbone, step.triples
    nodes = torch.cat([model.user, model.item])
    dense = model.adjacency.matrix.to_dense()
    mean = (nodes + dense @ nodes + dense @ dense @ nodes) / 3
    h_u, h_i = mean[: len(model.user)][user], (mean[len(model.user) :] + model.item)[item]
    q, kept = model.predict, model.modalities if keep is None else keep

    def far(one: Tensor, other: Tensor) -> Tensor:
        return (1 - (functional.normalize(one) * functional.normalize(other.detach())).sum(1)).mean()

    h_m = {}
    for name, values in features().items():
        projected = model.project[name](values if name in kept else values.mean(0).expand_as(values))
        h_m[name] = functional.normalize(projected)[item]
    z_i = h_i + sum(h_m.values())
    wanted = far(q(h_u), z_i) + far(q(z_i), h_u)
    for name in kept:
        wanted = wanted + 0.7 * (far(q(h_m[name]), h_i) + far(q(h_m[name]), h_m[name]))
    found = step.ranking_loss(keep)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    parameters = list(model.parameters())
    options = {"allow_unused": True, "materialize_grads": True}
    pairs = zip(torch.autograd.grad(found, parameters, **options), torch.autograd.grad(wanted, parameters, **options))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)


def test_negatives_have_no_part_in_its_loss() -> None:
    step = at()
    user, item, negative = step.triples
    other = Step(0, 0, step.backbone, Triples(user, item, (negative + 1) % ITEMS), SETTINGS, {})
    assert torch.equal(step.ranking_loss(), other.ranking_loss())
    assert not torch.equal(step.difference(), other.difference())


def test_what_is_dropped_is_a_function_of_seed_and_step_and_of_nothing_else() -> None:
    first = at(number=3).ranking_loss()
    torch.rand(5)
    step = at(number=3)
    step.ranking_loss(("text",))
    assert torch.equal(first, step.ranking_loss())
    assert not torch.equal(first, at(number=4).ranking_loss())
    assert not torch.equal(first, at(number=3, seed=1).ranking_loss())


def test_nothing_is_dropped_in_evaluation() -> None:
    step, plain = at(), at(dropout=0.0)
    plain.backbone.load_state_dict(step.backbone.state_dict())
    dropped = step.ranking_loss()
    step.backbone.eval()
    assert torch.equal(step.ranking_loss(), plain.ranking_loss()) and not torch.equal(step.ranking_loss(), dropped)


def test_a_modality_alone_is_id_and_that_modality() -> None:
    """Differences add up, and those of one modality have no gradient in another's parameters."""
    model, training = trained("bm3", count=3)
    model.zero_grad()
    model.double()  # so that what cancels is no more than rounding
    step = training.probe(0)
    alone = step.alone()
    together = sum(alone.values()) - 2 * step.difference(())
    assert torch.allclose(step.difference(), together, atol=1e-9)
    alone["text"].square().sum().backward()
    assert all(float(p.grad.abs().max()) < 1e-9 for p in model.own("image"))
    seen = (*model.own("text"), model.user, model.item, model.predict.weight)
    assert all(float(p.grad.abs().max()) > 1e-3 for p in seen)


def test_own_and_shared_parameters() -> None:
    model = backbone("bm3")
    assert {id(p) for p in model.own("text")} == {id(p) for p in model.project["text"].parameters()}
    shared = {id(p) for p in (model.user, model.item, *model.predict.parameters())}
    assert {id(p) for p in model.shared()} == shared


@pytest.mark.parametrize(
    "method",
    [
        Method(only="image"), CKD(), UMT(), Auxiliary(), ModalityDropout(), ModalityRates(), GradientModulation(),
        GradientBlending(period=1, triples=50), MMPareto(),
    ],
    ids=lambda method: type(method).__name__,
)  # fmt: skip
def test_every_method_goes_with_it(method: Method) -> None:
    if isinstance(method, ModalityRates):
        method.chosen = {"text": 1.0, "image": 3.0}
    model, training = trained("bm3", method, steps=0)
    other = backbone("bm3", seed=3)
    training.teachers = {name: tuple(v.detach() for v in other((name,))) for name in model.modalities}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = training.optimizer()
    losses = [training.step(number, optimizer)["loss"] for number in range(2 * training.steps_per_epoch + 1)]
    assert bool(torch.stack(losses).isfinite().all())
    for name, parameter in model.named_parameters():
        assert bool(parameter.isfinite().all()) and not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("options", [{"dropout": 1.0}, {"layers": 0}, {"weight": -1.0}, {"negatives": 2}])
def test_a_wrong_option_is_one_line(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))) as caught:
        backbone("bm3", **options)
    assert "\n" not in str(caught.value)
