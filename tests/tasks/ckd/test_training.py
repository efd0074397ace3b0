"""Trainings and teachers: what alpha = 0 is, resuming, the cache, patience, and that features can help."""

from pathlib import Path

import pytest
import torch

from decathlon.errors import ConfigError, DataError
from decathlon.recommendation.ranking import evaluate, inner_products
from decathlon.tasks.ckd import teachers as module
from decathlon.tasks.ckd.methods.base import Ensemble, Method, Popularity
from decathlon.tasks.ckd.methods.distil import CKD
from decathlon.tasks.ckd.teachers import make_teachers
from decathlon.tasks.ckd.training import Patience, Settings, Step, Training, measure, views_of
from tests.tasks.ckd.worlds import ALL, MULTIMODAL, SETTINGS, backbone, features, lists, trained


def taught(
    root: Path, kind: str = "uni", name: str = "vbpr", seed: int = 0, settings: Settings = SETTINGS
) -> module.Teachers:
    found, _ = make_teachers(kind, root, name, {"dim": 8}, lists(), lists(5, 0.05), features(), settings, seed)
    return found


def state_after(
    name: str, method: Method, teachers: module.Teachers | None = None, steps: int = 8
) -> dict[str, torch.Tensor]:
    model = backbone(name)
    training = Training(model, method, lists(), lists(5, 0.05), SETTINGS, seed=0, teachers=teachers)
    optimizer = training.optimizer()
    for number in range(steps):
        training.step(number, optimizer)
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_alpha_zero_is_joint_training_to_the_last_bit(name: str, tmp_path: Path) -> None:
    found = taught(tmp_path, kind="random", name=name)
    joint = state_after(name, Method())
    assert same(joint, state_after(name, CKD(alpha=0.0), found))
    assert not same(joint, state_after(name, CKD(), found))


def test_the_term_of_a_step_is_that_of_the_distillation() -> None:
    """Student and teachers by hand, against the method."""
    model, training = trained("vbpr", CKD(teachers="random"), steps=0)
    training.teachers = {
        name: tuple(v.detach() for v in backbone("vbpr", seed=3)((name,))) for name in model.modalities
    }
    step = training.probe(0)
    loss, logs = training.method.loss(step)

    def difference(vectors: tuple[torch.Tensor, torch.Tensor], triples: object) -> torch.Tensor:
        user, i, j = triples  # type: ignore[misc]
        return (vectors[0][user] * (vectors[1][i] - vectors[1][j])).sum(1)

    alone = {name: difference(model((name,)), step.triples) for name in model.modalities}
    said = {name: difference(training.teachers[name], step.triples) for name in model.modalities}
    generic = {name: difference(model((name,)), step.generic.triples) for name in model.modalities}
    labels = {name: difference(training.teachers[name], step.generic.triples) for name in model.modalities}
    joint = difference(model(), step.triples)
    term = training.method.distil(joint, alone, said, generic, labels)  # type: ignore[attr-defined]
    assert logs["distillation"].item() == pytest.approx(term.item(), rel=1e-4)
    users, items = model()
    user, i, j = step.triples
    squares = sum(float(x.detach().square().sum()) for x in (users[user], items[i], items[j]))
    bpr = -torch.nn.functional.logsigmoid(joint).mean().item()
    wanted = bpr + SETTINGS.reg * squares / 2 / SETTINGS.batch_size + term.item()
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    loss.backward()
    assert not any(v.requires_grad for vectors in training.teachers.values() for v in vectors)


@pytest.mark.parametrize("name", ALL)
def test_going_on_from_a_state_gives_the_same_bits(name: str) -> None:
    whole, training = trained(name, steps=7)
    model = backbone(name)
    first = Training(model, Method(), lists(), lists(5, 0.05), SETTINGS, seed=0)
    optimizer = first.optimizer()
    for number in range(5):
        first.step(number, optimizer)
    again = backbone(name, seed=9)
    second = Training(again, Method(), lists(), lists(5, 0.05), SETTINGS, seed=0)
    resumed = second.optimizer()
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    assert 5 % training.steps_per_epoch  # in the middle of an epoch
    for number in range(5, 7):
        second.step(number, resumed)
    assert same(whole.state_dict(), again.state_dict())


def test_teachers_are_trained_once_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = taught(tmp_path)
    monkeypatch.setattr(module, "_train", lambda *args: pytest.fail("trained again"))
    again = taught(tmp_path)
    for name in first:
        assert all(torch.equal(a, b) for a, b in zip(first[name], again[name]))
        assert not first[name][0].requires_grad
    different = Settings(**{**vars(SETTINGS), "generic": 7})  # of no meaning to a teacher
    taught(tmp_path, settings=different)
    for other in ({"seed": 1}, {"name": "mmgcn"}, {"settings": Settings(**{**vars(SETTINGS), "lr": 0.5})}):
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            taught(tmp_path, **other)  # type: ignore[arg-type]


def test_a_joint_teacher_teaches_every_modality_and_a_random_one_is_untrained(tmp_path: Path) -> None:
    joint = taught(tmp_path, "joint")
    assert torch.equal(joint["text"][0], joint["image"][0])
    uni, random = taught(tmp_path), taught(tmp_path, "random")
    assert not torch.equal(uni["text"][0], uni["image"][0])
    assert not torch.equal(uni["text"][0], random["text"][0])


def test_a_teacher_that_diverges_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the teacher of text diverged"):
        taught(tmp_path, settings=Settings(**{**vars(SETTINGS), "lr": 1e30}))


def test_the_ensemble_adds_up_the_teachers_scores(tmp_path: Path) -> None:
    found = taught(tmp_path)
    views = Ensemble().views(lists(), found)
    users, items = views[""]
    assert torch.allclose(users @ items.T, sum(u @ i.T for u, i in found.values()), atol=1e-5)  # type: ignore[arg-type]
    assert torch.equal(views["/text"][0], found["text"][0])
    users, items = Popularity().views(lists(), {})[""]
    assert torch.equal((users @ items.T)[3], torch.bincount(lists().item, minlength=24).float())


def test_patience() -> None:
    patience = Patience(2)
    assert [patience.see(v) for v in (0.1, 0.2, 0.2, float("nan"))] == [True, True, False, False]
    assert patience.ended and patience.best == 0.2
    patience.see(0.3)
    assert not patience.ended


def test_vectors_that_are_not_finite_measure_as_not_a_number() -> None:
    users, items = backbone("mf")()
    broken = users.detach().clone()
    broken[0, 0] = torch.nan
    assert all(v != v for v in measure((broken, items.detach()), lists(), lists(5, 0.05)).values())


def test_a_uni_modal_training_is_ranked_by_its_modality() -> None:
    model, training = trained("vbpr", Method(only=1))
    views = dict(views_of(model, training.method))
    assert all(torch.equal(a, b) for a, b in zip(views[""], views["/image"]))
    with pytest.raises(ConfigError, match="only=2 is no modality; choose text, image"):
        Method(only=2).keep(model)


def planted(zero: bool) -> float:
    """Recall@20 of VBPR where features say what is liked (or all are zero), after a short training."""
    random = torch.Generator().manual_seed(0)
    user, item = torch.randn(120, 6, generator=random), torch.randn(200, 6, generator=random)
    rank = (user @ item.T + torch.randn(120, 200, generator=random) * 0.3).argsort(1, descending=True).argsort(1)
    who, what = (rank < 12).nonzero().T
    held = torch.rand(len(who), generator=random) < 0.4
    from decathlon.recommendation.interactions import ItemLists
    from decathlon.tasks.ckd.backbones import Graph, make_backbone

    train = ItemLists.of(who[~held], what[~held], 120, 200)
    test = ItemLists.of(who[held], what[held], 120, 200)
    torch.manual_seed(0)
    name, given = ("mf", {}) if zero is None else ("vbpr", {"text": torch.zeros(200, 6) if zero else item})
    model = make_backbone(name, Graph.of(train), given, dim=16)
    training = Training(model, Method(), train, test, Settings(lr=1e-2, reg=1e-3, batch_size=128), seed=0)
    optimizer = training.optimizer()
    for number in range(150):
        training.step(number, optimizer)
    model.eval()
    users, items = model()
    return evaluate(inner_products(users.detach(), items.detach()), train, test)["recall@20"]


def test_features_help_and_zeros_rank_like_ids_alone() -> None:
    with_features, zeros, ids = planted(False), planted(True), planted(None)  # type: ignore[arg-type]
    assert with_features > ids + 0.1
    assert abs(zeros - ids) < 0.05


def test_settings_out_of_range() -> None:
    for wrong in (
        {"lr": 0},
        {"lr": float("nan")},
        {"reg": -1},
        {"sampler": "items"},
        {"batch_size": 0},
        {"patience": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)  # type: ignore[arg-type]


def test_generic_triples_are_a_function_of_the_step() -> None:
    model, training = trained("mf")
    one = Step(4, 0, model, training.sampler.batch(4), SETTINGS, {}).generic.triples
    other = Step(4, 0, model, training.sampler.batch(4), SETTINGS, {}).generic.triples
    assert all(torch.equal(a, b) for a, b in zip(one, other)) and len(one.user) == SETTINGS.generic


def test_the_modalities_are_alike_but_for_their_names() -> None:
    """Exchange the features of two modalities, and their weights with them: the same losses, exchanged weights."""
    given = {"text": features()["text"], "image": features()["text"].flip(0)}
    logs = []
    for names in (("text", "image"), ("image", "text")):
        swapped = dict(zip(given, (given[name] for name in names)))
        model = backbone("vbpr", given=swapped)
        with torch.no_grad():
            if names[0] == "image":
                one = backbone("vbpr", given=given)
                for ours, theirs in (("text", "image"), ("image", "text")):
                    model.preference[ours].load_state_dict(one.preference[theirs].state_dict())
                    model.project[ours].load_state_dict(one.project[theirs].state_dict())
        other = backbone("vbpr", seed=5, given=given)
        teachers = {name: tuple(v.detach() for v in other((source,))) for name, source in zip(given, names)}
        training = Training(model, CKD(), lists(), lists(5, 0.05), SETTINGS, seed=0, teachers=teachers)
        optimizer = training.optimizer()
        logs.append([training.step(number, optimizer) for number in range(4)])
    for first, second in zip(*logs):
        assert first["loss"].item() == pytest.approx(second["loss"].item(), rel=1e-4)
        assert first["weight/text"].item() == pytest.approx(second["weight/image"].item(), rel=1e-3)
        assert first["weight/image"].item() == pytest.approx(second["weight/text"].item(), rel=1e-3)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_three_modalities(name: str) -> None:
    model, training = trained(name, CKD(), steps=0, count=3)
    training.teachers = {m: tuple(v.detach() for v in backbone(name, count=3, seed=3)((m,))) for m in model.modalities}
    optimizer = training.optimizer()
    for number in range(3):
        logs = training.step(number, optimizer)
    assert sum(logs[f"weight/{m}"].item() for m in model.modalities) == pytest.approx(3, abs=1e-4)
    assert bool(torch.isfinite(logs["loss"]))
