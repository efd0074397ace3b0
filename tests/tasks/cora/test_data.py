"""Logs, splits, collaborative models, baselines; own files; MovieLens-1M against its published counts."""

from pathlib import Path

import pytest
import torch

from decathlon.errors import UserError
from decathlon.recommendation.ctr import auc, uauc
from decathlon.runner.compose import compose_config
from decathlon.tasks.cora.collaborative import trained
from decathlon.tasks.cora.data import BucketOrder, as_code
from decathlon.tasks.cora.log import choose
from decathlon.tasks.cora.methods.alone import bias_scores, logistic_scores
from decathlon.tasks.cora.sources import read
from decathlon.tasks.cora.sources.catalogue import GENRES, catalogue

SMALL = {"people": 120, "films": 60, "rows": 12}


def test_the_catalogue_leaks_nothing_and_is_a_function_of_its_seed() -> None:
    one, two = catalogue(seed=3, **SMALL), catalogue(seed=3, **SMALL)
    assert torch.equal(one.labels, two.labels) and one.titles == two.titles
    assert not torch.equal(catalogue(seed=4, **SMALL).users[:50], one.users[:50])
    assert len(set(one.titles)) == len(one.titles) and (one.times.diff() >= 0).all()
    assert torch.equal(one.part, one.part.sort().values)  # split in time
    words = [set(f"{adjectives} {nouns}".split()) for adjectives, nouns in GENRES.values()]
    assert not any(a & b for i, a in enumerate(words) for b in words[:i])


def test_histories_hold_the_past_only() -> None:
    log = catalogue(seed=0, **SMALL)
    for row in range(0, len(log), 37):
        own = [r for r in range(row) if log.users[r] == log.users[row] and log.labels[r] == 1]
        assert log.histories[row].tolist() == log.items[own].tolist()


def test_rows_are_chosen_by_users() -> None:
    log = catalogue(seed=0, **SMALL)
    chosen = choose(log, train=50, valid=20, test_users=10, test_rows=3, seed=1)
    assert len(chosen.train) == 50 and len(chosen.valid) == 20
    users, counts = log.users[chosen.test].unique(return_counts=True)
    assert len(users) == 10 and (counts == 3).all() and (log.part[chosen.test] == 2).all()
    assert torch.equal(choose(log, train=50, test_users=10, test_rows=3, seed=1).test, chosen.test)
    with pytest.raises(UserError, match="no test user has 500 rows"):
        choose(log, test_users=3, test_rows=500)


@pytest.mark.parametrize("name", ["mf", "lgcn", "sas", "binary"])
def test_collaborative_models_learn_and_are_trained_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = catalogue(seed=0, **SMALL)
    options = {"size": 8, "lr": 1e-2, "epochs": 6, "patience": 6, "batch_size": 128}
    model = trained(tmp_path, log, name, options)
    rows = torch.arange(len(log))
    user, item = model.frozen(rows)
    assert torch.allclose((user * item).sum(1), model.scores(rows))
    assert auc(model.scores(log.rows(0)), log.labels[log.rows(0)]) > 0.53
    assert not any(p.requires_grad for p in model.parameters())
    monkeypatch.setattr("decathlon.tasks.cora.collaborative.training._train", lambda *_: pytest.fail("trained twice"))
    again = trained(tmp_path, log, name, options)
    assert torch.equal(again.frozen(rows)[0], user)
    for change in ({"lr": 2e-2}, {"size": 12}):
        with pytest.raises(BaseException, match="trained twice"):
            trained(tmp_path, log, name, {**options, **change})
    if name == "sas":  # what a user did later does not matter
        early = log.rows(0)[:40]
        torch.testing.assert_close(model.frozen(early)[0], user[early])


def test_cold_ids_go_to_zero(tmp_path: Path) -> None:
    """Adam's coupled weight decay acts on rows without a gradient; decoupled decay would leave them where they were."""
    log = catalogue(seed=0, **SMALL)
    options = {"size": 4, "init_std": 1.0, "lr": 3e-2, "weight_decay": 1e-3, "epochs": 40, "patience": 40}
    start = trained(tmp_path, log, "mf", {**options, "epochs": 1})
    model = trained(tmp_path, log, "mf", options)
    cold = ~torch.isin(torch.arange(log.user_count), log.users[log.rows(0)])
    assert cold.any() and float(model.user.weight[cold].norm()) < float(start.user.weight[cold].norm())


def test_batches_are_of_similar_length_and_hold_every_row_once() -> None:
    lengths = torch.randint(20, 90, (1000,), generator=torch.Generator().manual_seed(0))
    order = BucketOrder(lengths, 16, seed=0)
    epoch = order.epoch(3)
    assert torch.equal(epoch.sort().values, torch.arange(1000))
    padded = sum(int(lengths[order.batch(step)].max()) * 16 for step in range(order.steps_per_epoch))
    real = sum(int(lengths[order.batch(step)].sum()) for step in range(order.steps_per_epoch))
    assert 1 - real / padded < 0.05
    assert torch.equal(BucketOrder(lengths, 16, seed=0).batch(200), order.batch(200))


def test_codes() -> None:
    bits = torch.tensor([1.0, -1, -1, -1, -1, -1, -1, 1] * 2)
    assert as_code(bits, "bits") == "1000000110000001" and as_code(bits, "dotted") == "129.129"


OWN = "user,item,rating,timestamp\n" + "".join(
    f"u{row % 7},i{row % 5},{1 + (row * 7) % 5},{row}\n" for row in range(120)
)
TITLES = "item,title\n" + "".join(f"i{n},Book {n}\n" for n in range(5))


PART = ("train", "valid")


def own(tmp_path: Path, rows: str = OWN, titles: str = TITLES, **options: object):
    (tmp_path / "rows.csv").write_text(rows)
    (tmp_path / "titles.csv").write_text(titles)
    given = {"interactions": str(tmp_path / "rows.csv"), "items": str(tmp_path / "titles.csv"), **options}
    return read(tmp_path, {"name": "csv", "source": "csv", "options": given}, seed=1)


def test_own_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = own(tmp_path, OWN + "u1,i1,,5\nu1,,3,5\nu9,i1,4,oops\nu1,i1,4,6,7,8\n")
    assert len(log) == 120 and log.report == {"rows": 124, "malformed": 1, "incomplete": 3}
    assert (log.labels == torch.tensor([int(1 + (row * 7) % 5 >= 4) for row in range(120)])).all()
    assert float(log.times[log.part == 0].max()) < float(log.times[log.part == 1].min())
    assert log.titles[int(log.items[3])] == "Book 3"
    drawn = own(tmp_path, split="random")
    assert [int((drawn.part == part).sum()) for part in range(3)] == [96, 12, 12]


@pytest.mark.parametrize(
    ("rows", "titles", "options", "message"),
    [
        (OWN, TITLES.replace("i3,Book 3\n", "i3,\n"), {}, "item i3 has no title"),
        (OWN, TITLES.replace("i4,Book 4\n", ""), {}, "item i4 has no title"),
        ("user,item,label\n1,1,1\n", TITLES, {}, "no column timestamp"),
        ("user,item,time\n1,1,1\n", TITLES, {}, r"no column label \(or rating\)"),
        (OWN, TITLES, {"least": 9.0}, "train rows have no positive label"),
        (OWN, TITLES, {"split": "users"}, "split=users is unknown; choose time or random"),
        (OWN, TITLES, {"test": 1.5}, "must be shares"),
        (OWN, TITLES, {"interactions": "/no/such.csv"}, "/no/such.csv"),
        (OWN, TITLES, {"interactions": None}, "needs interactions=<file> and items=<file>"),
        (OWN, TITLES, {"colour": 1}, "has no option colour"),
        (
            "user,item,label,timestamp,split\n" + "".join(f"{n},i1,{n % 2},{n},{PART[n > 9]}\n" for n in range(20)),
            TITLES, {}, "the test split has no rows",
        ),
    ],
)  # fmt: skip
def test_bad_own_files_are_one_line(tmp_path: Path, rows: str, titles: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        own(tmp_path, rows, titles, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.data
def test_movielens_1m(data_root: Path | None, tmp_path: Path) -> None:
    if data_root is None or not (data_root / "ml-1m-collm").is_dir():
        pytest.skip("needs ml-1m-collm")
    log = read(data_root, {"name": "ml1m", "source": "ml1m"})
    rows = [log.rows(part) for part in range(3)]
    assert [len(some) for some in rows] == [33_891, 10_401, 7_331]
    assert (log.user_count, log.item_count) == (838, 3_255)
    assert [len(log.users[some].unique()) for some in rows] == [740, 356, 320]
    assert [len(log.items[some].unique()) for some in rows] == [3_087, 2_506, 2_203]
    shares = [float(log.labels[some].double().mean()) for some in rows]
    assert shares == pytest.approx([0.5368, 0.5283, 0.5454], abs=5e-5)
    assert [int(log.warm[some].sum()) for some in rows] == [33_891, 6_609, 4_153]
    test = rows[2]
    warm = log.warm[test]
    for some, count in ((test, 224), (test[warm], 176), (test[~warm], 51)):
        assert uauc(torch.rand(len(some)), log.labels[some], log.users[some]).users == count
    scores = bias_scores(log, test)
    assert auc(scores, log.labels[test]) == pytest.approx(0.7317, abs=5e-4)
    assert uauc(scores, log.labels[test], log.users[test]).mean == pytest.approx(0.6816, abs=5e-4)


@pytest.mark.data
@pytest.mark.slow
def test_collaborative_models_on_movielens_1m(data_root: Path | None, tmp_path: Path) -> None:
    if data_root is None or not (data_root / "ml-1m-collm").is_dir():
        pytest.skip("needs ml-1m-collm")
    log = read(data_root, {"name": "ml1m", "source": "ml1m"})
    options = compose_config(["task=cora", "dataset=ml1m"]).dataset.collaborative.mf
    test, model = log.rows(2), trained(tmp_path, log, "mf", dict(options))
    assert auc(model.scores(test), log.labels[test]) == pytest.approx(0.648, abs=0.012)
    assert uauc(model.scores(test), log.labels[test], log.users[test]).mean == pytest.approx(0.636, abs=0.015)
    found = logistic_scores(log, log.rows(0), test, model)
    assert auc(found, log.labels[test]) == pytest.approx(0.732, abs=0.02)
