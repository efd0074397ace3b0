"""What a job keeps of its recommender: the scores that it had, by the ids of one's own files."""

import math
import shutil
from pathlib import Path

import pytest
import torch

import decathlon as package
from decathlon.errors import ConfigError, DataError
from decathlon.rows import read_rows
from tests.conftest import Door
from tests.test_trained import answered, finished

FAST = [
    "task=cora", "figures=false", "dataset.options.people=60", "dataset.options.films=40", "dataset.options.rows=10",
    "smoke.test_rows=2", "rank=4", "dataset.collaborative.mf.epochs=2", "dataset.collaborative.lgcn.epochs=2",
    "dataset.collaborative.sas.epochs=2", "dataset.collaborative.binary.epochs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cora") / "data"


@pytest.mark.parametrize("method", ["cora_mf", "collm_sas", "binllm", "lgcn", "sas", "bias", "lr"])
def test_scores_are_those_of_the_job(method: str, here: Path, data: Path) -> None:
    job, module = finished(here, *FAST, f"method={method}", "lr=0.01", data=data)
    rows, known = read_rows(job.folder), module.data.log
    times = known.times[[int(row["id"]) for row in rows]]
    shutil.copytree(job.folder / "trained", here / "sent")
    data.rename(here / "away")
    try:
        found = package.load(here / "sent")
        # Batches are padded to other widths than in the job: sums in another order.
        scores = found.score([(row["user"], row["item"]) for row in rows], times)
        assert scores.tolist() == pytest.approx([row["score"] for row in rows], abs=2e-5)
        pairs = [(row["user"], row["item"]) for row in rows[:3]]
        later = found.score([*pairs, (0, 4000)])
        assert later[:3].isfinite().all() and later[3].isnan()
        if method in ("lgcn", "bias", "lr"):  # they read no history
            assert torch.allclose(later[:3], scores[:3])
    finally:
        (here / "away").rename(data)


def test_own_files(here: Path, data: Path, decathlon_here: Door) -> None:
    from tests.tasks.cora.test_data import OWN, TITLES

    (here / "mine.csv").write_text(OWN)
    (here / "titles.csv").write_text(TITLES)
    own = ["task=cora", "figures=false", "rank=4", "dataset=csv", "model=catalogue", "smoke.decoder={steps: 3}"]
    own += ["dataset.collaborative.mf.epochs=2", "dataset.collaborative.mf.size=16"]
    own += ["interactions=mine.csv", "items=titles.csv", "smoke.test_users=null"]
    job, module = finished(here, *own, data=data)
    for name in ("mine.csv", "titles.csv"):
        (here / name).unlink()
    found = package.load(job.folder)
    known = module.data.log
    assert list(found.users) == known.user_ids and set(known.user_ids) <= {
        row.split(",")[0] for row in OWN.splitlines()
    }
    user, item = known.user_ids[1], known.item_ids[2]
    liked = [row for row in range(len(known)) if known.users[row] == 1 and known.labels[row] == 1]
    expected = known.asked(torch.tensor([1]), torch.tensor([2])).histories[len(known)].tolist()
    assert sorted(expected) == sorted(known.items[liked].tolist())
    table = f"n,user,item\n1,{user},{item}\n2,nobody,{item}\n3,{user},nothing\n4,{known.user_ids[0]},{item}\n"
    rows, said = answered(decathlon_here, job, table)
    assert [row["n"] for row in rows] == ["1", "2", "3", "4"] and rows[1]["score"] == rows[2]["score"] == ""
    assert float(rows[0]["score"]) == pytest.approx(float(found.score([(user, item)])[0]), abs=1e-4)
    assert "2 of 4 rows" in said and "user nobody is not in the job's log" in said
    assert "line 4: item nothing is not in the job's log" in said
    Path("other.csv").write_text("user\na\n")
    assert "has no column item; its columns: user" in decathlon_here("predict", str(job.folder), "other.csv").stderr


def test_a_model_from_elsewhere_is_found_again_and_must_be_the_same(here: Path, data: Path) -> None:
    from decathlon.language import new_llama
    from decathlon.tasks.cora.decoder import catalogue_tokenizer

    tokenizer = catalogue_tokenizer()

    def write(seed: int) -> None:
        model = new_llama(len(tokenizer), width=16, layers=3, heads=2, positions=256, seed=seed)
        model.save_pretrained(here / "llm")
        tokenizer.save_pretrained(here / "llm")

    write(0)
    job, _ = finished(here, *FAST, f"model={here / 'llm'}", data=data)
    rows = read_rows(job.folder)
    state = torch.load(job.folder / "trained" / "trained.pt", weights_only=True)
    assert state["model"] is None and len(state["fingerprints"]) == 2
    found = package.load(job.folder)
    assert found.score([(row["user"], row["item"]) for row in rows]).isfinite().all()
    write(1)
    with pytest.raises(DataError, match="is another one than in the job") as error:
        package.load(job.folder)
    assert "\n" not in str(error.value)


def test_the_control_scores_no_pairs(here: Path, data: Path) -> None:
    job, _ = finished(here, *FAST, "method=cora_permuted", data=data)
    with pytest.raises(ConfigError, match="method=cora_permuted is a control"):
        package.load(job.folder)


def test_what_is_asked_changes_nothing_of_the_log() -> None:
    from decathlon.tasks.cora.sources.catalogue import catalogue

    log = catalogue(seed=0, people=60, films=40, rows=10)
    row = int(log.rows(2)[3])
    asked = log.asked(log.users[[row, row]], log.items[[row, row]], log.times[[row, row]])
    count = len(log)
    assert torch.equal(asked.histories.item, log.histories.item)
    assert all(torch.equal(asked.histories[place], log.histories[row]) for place in (row, count, count + 1))
    assert torch.equal(asked.rows(2), log.rows(2)) and math.isinf(log.asked(log.users[:1], log.items[:1]).times[-1])
