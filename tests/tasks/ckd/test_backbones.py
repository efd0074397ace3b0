"""Counterfactual forwards of every backbone: what they see, where their gradients go, and that they can be kept."""

import io

import pytest
import torch
from torch import Tensor

from decathlon.errors import ConfigError
from decathlon.recommendation.samplers import Triples
from decathlon.tasks.ckd.backbones import Backbone, Graph, make_backbone
from decathlon.tasks.ckd.backbones.base import Views
from decathlon.tasks.ckd.training import Rows, Step
from tests.tasks.ckd.worlds import ALL, ITEMS, MULTIMODAL, SETTINGS, USERS, backbone, features, lists, trained

TRIPLES = Triples(torch.arange(20), torch.arange(20), (torch.arange(20) * 7 + 3) % ITEMS)


def difference(vectors: tuple[Tensor, Tensor], triples: Triples) -> Tensor:
    users, items = vectors
    return (users[triples.user] * (items[triples.positive] - items[triples.negative])).sum(1)


def scores(vectors: tuple[Tensor, Tensor]) -> Tensor:
    return vectors[0] @ vectors[1].T


@pytest.mark.parametrize("name", ALL)
def test_vectors_of_all_users_and_items(name: str) -> None:
    users, items = backbone(name)()
    assert users.shape[0] == USERS and items.shape[0] == ITEMS and users.shape[1] == items.shape[1]
    assert bool(scores((users, items)).isfinite().all())


def exchanged(model: Backbone, name: str) -> Backbone:
    """The same model with the images of its items exchanged: their mean is what it was."""
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    given = features()
    other = make_backbone(name, Graph.of(lists()), {**given, "image": given["image"][order]}, dim=8).eval()
    other.load_state_dict(model.state_dict())
    if name == "lattice":  # its neighbours are state, and of the other order
        other.neighbours_image.copy_(order.argsort()[model.neighbours_image[order]])
    return other


@pytest.mark.parametrize("name", MULTIMODAL)
def test_a_counterfactual_modality_is_not_seen(name: str) -> None:
    model, training = trained(name)
    other = exchanged(model, name)
    for a, b in zip(model(["text"]), other(["text"])):
        assert torch.equal(a, b)
    assert not torch.equal(scores(model()), scores(other()))
    losses = [Step(0, 0, one, training.sampler.batch(0), SETTINGS, {}).base_loss(("text",)) for one in (model, other)]
    assert torch.equal(*losses)  # nor in what a teacher of the text is trained by


@pytest.mark.parametrize("name", MULTIMODAL)
def test_users_differ_in_no_preference_for_a_counterfactual_modality(name: str) -> None:
    model, _ = trained(name)
    if not hasattr(model, "preference"):
        pytest.skip("it has no preference tables")
    before = model(["text"])
    weight = model.preference["image"].weight
    with torch.no_grad():
        weight.copy_(weight[torch.randperm(USERS, generator=torch.Generator().manual_seed(0))])
    for a, b in zip(before, model(["text"])):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_with_one_modality_its_own_prediction_is_the_joint_one(name: str) -> None:
    model, _ = trained(name, count=1)
    assert all(torch.equal(a, b) for a, b in zip(model(), model(["text"])))
    assert all(torch.equal(a, b) for a, b in zip(model(None), model(model.modalities)))


@pytest.mark.parametrize("name", MULTIMODAL)
@pytest.mark.parametrize("count", [2, 3])
def test_shared_streams_change_nothing(name: str, count: int) -> None:
    model, _ = trained(name, count=count)
    views = Views(model)
    for keep in ((), ("text",), ("image",), None):
        assert all(torch.equal(a, b) for a, b in zip(views(keep), model(keep)))


@pytest.mark.parametrize("name", ALL)
def test_differences_and_squares_by_parts_are_those_of_the_whole(name: str) -> None:
    model, _ = trained(name)
    views, rows = Views(model), Rows(TRIPLES)
    for keep in ((), *((m,) for m in model.modalities), None):
        users, items = model(keep)
        assert torch.allclose(rows.difference(views.parts(keep)), difference((users, items), TRIPLES), atol=1e-5)
        user, positive, negative = TRIPLES
        squares = sum(part.square().sum() for part in (users[user], items[positive], items[negative]))
        assert torch.allclose(rows.squares(views.parts(keep)), squares, rtol=1e-5)


def test_vbpr_s_scores_are_sums_of_parts() -> None:
    model, _ = trained("vbpr", count=3)
    model.requires_grad_(False)
    joint, none = difference(model(), TRIPLES), difference(model(()), TRIPLES)
    alone = [difference(model((name,)), TRIPLES) for name in model.modalities]
    assert torch.allclose(joint, sum(alone) - 2 * none, atol=1e-5)
    identity = difference((model.user, model.item), TRIPLES)
    assert torch.allclose(none, identity, atol=1e-5)
    for name, own in zip(model.modalities, alone):
        part = (model.preference[name].weight, model.project[name](features(3)[name]))
        assert torch.allclose(own, identity + difference(part, TRIPLES), atol=1e-5)
        ranked = scores((torch.cat([model.user, part[0]], 1), torch.cat([model.item, part[1]], 1))).argsort(1)
        close = scores(model((name,))).gather(1, ranked).diff(dim=1)
        assert float(close.min()) > -1e-5  # the same order, but for rounding


def test_gradients_of_a_modality_alone_stay_in_it_for_vbpr_and_not_for_mmgcn() -> None:
    for name, apart in (("vbpr", True), ("mmgcn", False)):
        model, _ = trained(name)
        model.zero_grad()
        difference(model(("text",)), TRIPLES).sum().backward()
        found = [p.grad.abs().max() if p.grad is not None else torch.zeros(()) for p in model.own("image")]
        assert (float(torch.stack(found).max()) < 1e-6) == apart
        assert all(float(p.grad.abs().max()) > 0 for p in model.own("text") if p.grad is not None)
        shared = [p.grad for p in model.shared() if p.grad is not None]
        assert shared and float(shared[0].abs().max()) > 0  # the id part learns from every forward


@pytest.mark.parametrize("name", ALL)
def test_a_reloaded_model_gives_the_same_bits(name: str) -> None:
    model, _ = trained(name, steps=5)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = backbone(name, seed=7)
    again.load_state_dict(torch.load(file, weights_only=True))
    for keep in (None, (), *((m,) for m in model.modalities)):
        assert torch.equal(scores(model(keep)), scores(again(keep)))


@pytest.mark.parametrize("name", MULTIMODAL)
def test_no_copy_of_the_features_and_none_in_a_checkpoint(name: str) -> None:
    given = features()
    model = backbone(name, given=given)
    for modality, values in given.items():
        assert model.features[modality].values.data_ptr() == values.data_ptr()
    assert not any("features" in key for key in model.state_dict())


def test_frozen_preferences_are_kept_but_not_trained() -> None:
    model, _ = trained("mmgcn", frozen_preference=True)
    first = backbone("mmgcn", frozen_preference=True)
    weight = model.preference["text"].weight
    assert torch.equal(weight, first.preference["text"].weight) and not weight.requires_grad
    assert "preference.text.weight" in model.state_dict()
    assert not torch.equal(trained("mmgcn")[0].preference["text"].weight, weight)


def test_every_parameter_of_every_backbone_learns() -> None:
    for name in ALL:
        model, _ = trained(name)
        first = backbone(name).state_dict()
        for key, parameter in model.named_parameters():
            assert not torch.equal(parameter, first[key]), f"{name}: {key}"


def test_freedom_leaves_out_edges_in_training_only() -> None:
    model, _ = trained("freedom")
    whole, thin = model.whole.matrix.values(), model.thinned.matrix.values()
    assert len(thin) == 2 * int(0.2 * len(whole) / 2)
    model.begin_epoch(1)
    second = model.thinned.matrix.to_dense()
    model.begin_epoch(0)
    assert not torch.equal(second, model.thinned.matrix.to_dense())
    evaluated = model()
    model.begin_epoch(5)
    assert all(torch.equal(a, b) for a, b in zip(evaluated, model()))


def test_lattice_finds_neighbours_anew() -> None:
    model, _ = trained("lattice", steps=3)
    before = model.neighbours_text.clone()
    with torch.no_grad():
        model.project["text"].weight.normal_()
    model.begin_epoch(1)
    assert not torch.equal(before, model.neighbours_text)


def test_attention_of_grcn_sums_to_one() -> None:
    from decathlon.tasks.ckd.backbones.grcn import attend

    x = torch.nn.functional.normalize(torch.randn(5, 3))
    target, source = torch.tensor([0, 0, 0, 2]), torch.tensor([1, 2, 3, 4])
    heard, attention = attend(x, x, target, source)
    weights = torch.tensor([x[0] @ x[1], x[0] @ x[2], x[0] @ x[3]]).softmax(0)
    assert torch.allclose(attention[:3], weights) and attention[3] == 1
    assert torch.allclose(heard[0], weights @ x[1:4]) and torch.equal(heard[1], torch.zeros(3))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("bpr", {}, "backbone=bpr is unknown; choose vbpr, mmgcn"),
        ("vbpr", {"dim": 0}, "dim=0 must be at least 1"),
        ("vbpr", {"layers": 2}, "backbone=vbpr has no option layers"),
        ("freedom", {"drop": 1.0}, "drop=1.0"),
        ("freedom", {"weights": {"text": 1.0}}, "the modalities are text, image"),
        ("egogcn", {"fusion": "max"}, "fusion=max is unknown"),
        ({"name": "mmgcn", "layers": 0}, {}, "layers=0"),
    ],
)
def test_a_wrong_option_is_one_line(spec: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_backbone(spec, Graph.of(lists()), features(), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_unknown_modalities_and_no_features_are_refused() -> None:
    with pytest.raises(ValueError, match="audio is no modality of this model; it has text, image"):
        backbone("vbpr")(["audio"])
    with pytest.raises(ConfigError, match="there are no features; choose backbone=mf"):
        make_backbone("vbpr", Graph.of(lists()), {})
