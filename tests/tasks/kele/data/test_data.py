"""MQuAKE, CounterFact and the world as batches of cases: real files where they are at hand, broken ones always."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from decathlon.errors import ConfigError, DataError
from decathlon.tasks.kele.cases import refusal
from decathlon.tasks.kele.data import counterfact, mquake
from decathlon.tasks.kele.data import known as data_known
from decathlon.tasks.kele.data.datamodule import EditCases, pick
from decathlon.tasks.kele.models import ModelSpec

RAW = os.environ.get("DECATHLON_TEST_DATA", "")
needs_raw = pytest.mark.skipif(not RAW, reason="DECATHLON_TEST_DATA names no folder with raw files")


@needs_raw
@pytest.mark.data
def test_mquake_3k() -> None:
    loaded = mquake.load(RAW)
    cases = loaded.cases
    assert len(cases) == 3000 and not loaded.refused
    assert Counter((case.hops, len(case.edits)) for case in cases) == {
        (2, 1): 513, (2, 2): 487, (3, 1): 356, (3, 2): 334, (3, 3): 310,
        (4, 1): 224, (4, 2): 246, (4, 3): 262, (4, 4): 268,
    }  # fmt: skip
    assert len({(edit.subject, edit.prompt) for case in cases for edit in case.edits}) == 2785
    assert all(len(case.questions) == 3 and len(case.chain) == case.hops for case in cases)
    first = cases[0]
    assert first.edits[0].text == "Ellie Kemper is a citizen of"
    assert first.questions[0].new[0] == "Kolinda Grabar-Kitarović" and "Donald Trump" in first.questions[0].old
    assert first.chain[0].relation == "P27" and "America" in first.chain[0].answers


@needs_raw
@pytest.mark.data
def test_mquake_prompts() -> None:
    relations = json.loads(mquake.prompt_file(RAW, "relations").read_text(encoding="utf-8"))
    used = {hop.relation for case in mquake.load(RAW).cases for hop in case.chain}
    assert used <= relations.keys() and len(relations) == 37
    assert mquake.prompt_file(RAW, "few_shot").read_text(encoding="utf-8").startswith("Q: What is the country")
    assert "Thoughts:" in mquake.prompt_file(RAW, "cot").read_text(encoding="utf-8")


@needs_raw
@pytest.mark.data
def test_counterfact_flat() -> None:
    loaded = counterfact.load(RAW)
    assert len(loaded.cases) + sum(loaded.refused.values()) == 21919
    assert loaded.refused.total() < 10
    case = loaded.cases[0]
    assert case.edits[0].text == "The mother tongue of Danielle Darrieux is"
    assert case.edits[0].span == (21, 38)
    assert (case.edits[0].old, case.edits[0].new) == ("French", "English")
    assert len(case.paraphrases) == len(case.neighbours) == 1
    assert case.neighbours[0].old == "French"


def record(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "case_id": 1,
        "requested_rewrite": [
            {
                "prompt": "{} is a citizen of", "subject": "Ann",
                "target_true": {"str": "France"}, "target_new": {"str": "Italy"},
            }
        ],
        "questions": ["What is the capital of Ann's country?"],
        "answer": "Paris", "answer_alias": [], "new_answer": "Rome", "new_answer_alias": ["Roma"],
        "single_hops": [
            {"question": "Ann's country?", "answer": "France", "answer_alias": []},
            {"question": "Capital of France?", "answer": "Paris", "answer_alias": []},
        ],
        "new_single_hops": [
            {"question": "Ann's country?", "answer": "Italy", "answer_alias": []},
            {"question": "Capital of Italy?", "answer": "Rome", "answer_alias": []},
        ],
        "orig": {"triples": [["Q1", "P27", "Q2"], ["Q2", "P36", "Q3"]]},
    }  # fmt: skip
    return base | changes


def write(folder: Path, name: str, records: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_a_small_mquake_file(tmp_path: Path) -> None:
    same = [{**record()["requested_rewrite"][0], "target_new": {"str": "France"}}]
    absent = [{**record()["requested_rewrite"][0], "prompt": "is a citizen of"}]
    records = [record(), record(case_id=2, requested_rewrite=same), record(case_id=3, requested_rewrite=absent)]
    write(tmp_path, "MQuAKE-T.json", records)
    loaded = mquake.load(tmp_path, "t")
    assert [case.id for case in loaded.cases] == ["1"]
    assert loaded.refused == {
        "old and new answer are the same": 1,
        "no single slot for the subject in the prompt": 1,
    }
    assert loaded.cases[0].questions[0].new == ("Rome", "Roma")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"new_answer": "Milan"}, "record 0: the last hop does not end in the answer"),
        ({"single_hops": []}, "record 0 has no edits, no questions or an incomplete chain"),
        ({"orig": {}}, r"record 0 is malformed \(KeyError: 'triples'\)"),
        ({"requested_rewrite": [1]}, "record 0 is malformed"),
    ],
)
def test_broken_mquake_records(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, "MQuAKE-T.json", [record(**change)])
    with pytest.raises(DataError, match=message):
        mquake.load(tmp_path, "t")


def test_broken_mquake_files(tmp_path: Path) -> None:
    path = tmp_path / "MQuAKE-CF-3k.json.gz"
    path.write_bytes(gzip.compress(b"[{]"))
    with pytest.raises(DataError, match="not a readable JSON file"):
        mquake.load(tmp_path)
    path.write_bytes(gzip.compress(json.dumps([record()]).encode())[:-9])
    with pytest.raises(DataError, match="not a readable JSON file"):
        mquake.load(tmp_path)
    path.write_bytes(gzip.compress(json.dumps([record()]).encode()))
    with pytest.raises(DataError, match=r"1.* cases per number of hops, expected"):
        mquake.load(tmp_path)
    write(tmp_path, "MQuAKE-T.json", [record(), record()])
    with pytest.raises(DataError, match="same case_id twice"):
        mquake.load(tmp_path, "t")
    with pytest.raises(ValueError, match="version=x is none of MQuAKE's; choose cf-3k"):
        mquake.load(tmp_path, "x")


def test_both_forms_of_counterfact_and_broken_ones(tmp_path: Path) -> None:
    full = {
        "case_id": 7,
        "requested_rewrite": {
            "prompt": "{} is in", "subject": "Rome", "target_true": {"str": "Italy"}, "target_new": {"str": "Spain"},
        },
        "paraphrase_prompts": ["Rome lies in", "Rome can be found in"],
        "neighborhood_prompts": ["Milan is in"] * 10,
    }  # fmt: skip
    flat = {
        "case_id": 8, "prompt": "Rome is in", "subject": "Rome", "ground_truth": "Italy", "target_new": "Spain",
        "rephrase_prompt": "Rome lies in", "locality_prompt": "Milan is in", "locality_ground_truth": "Italy",
    }  # fmt: skip
    twice = flat | {"case_id": 9, "prompt": "Rome, that is Rome, is in"}
    path = write(tmp_path, "counterfact.json", [full, flat, twice])
    loaded = counterfact.load(tmp_path)
    assert [case.id for case in loaded.cases] == ["7", "8"] and loaded.refused.total() == 1
    assert [len(case.paraphrases) for case in loaded.cases] == [2, 1]
    assert loaded.cases[0].edits == loaded.cases[1].edits
    path.write_text(json.dumps([full, {"case_id": 1}]), encoding="utf-8")
    with pytest.raises(DataError, match="record 1 is malformed"):
        counterfact.load(tmp_path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="not a list of records"):
        counterfact.load(tmp_path)


def test_refusals() -> None:
    assert refusal("{} is in", "Rome", "Italy", "Spain") is None
    assert refusal("{} is {}", "Rome", "Italy", "Spain") == "no single slot for the subject in the prompt"
    assert refusal("in Rome, {} is", "Rome", "Italy", "Spain") == "subject not exactly once in the filled prompt"
    assert refusal("{} is in", " ", "Italy", "Spain") == refusal("{} is in", "Rome", "Italy", "")


def test_pick() -> None:
    items: list[Any] = list(range(10))
    assert pick(items, None, "first") == items == pick(items, 99, "spread")
    assert pick(items, 3, "first") == [0, 1, 2] and pick(items, 5, "spread") == [0, 2, 4, 6, 8]


WORLD = {"name": "world", "source": "world"}
SHORT = {"steps": 1, "people": 40}


def test_the_world_as_batches(tmp_path: Path) -> None:
    data = EditCases(str(tmp_path), WORLD, "world", cases=5, batch_size=2, seed=4, training=SHORT)
    data.prepare_data()
    data.setup("test")
    batches = list(data.test_dataloader())
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert data.spec.world_training().path(tmp_path).is_file()
    other = EditCases(str(tmp_path), WORLD, "world", cases=5, batch_size=2, seed=5, training=SHORT)
    assert other.spec.world_training().path(tmp_path) != data.spec.world_training().path(tmp_path)


def test_the_filter_asks_the_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "MQuAKE-T.json", [record(case_id=i) for i in range(6)])
    write(tmp_path, "rel-prompts.json", {"P27": "Q: a A: b"})
    (tmp_path / "multihop-prompts.txt").write_text("Q: a A: b")
    asked = []

    def known(model: Any, tokenizer: Any, cases: Any, rule: str, *rest: Any) -> list[str]:
        asked.append((rule, [case.id for case in cases]))
        return ["1", "3"]

    monkeypatch.setattr(data_known, "known", known)
    monkeypatch.setattr("decathlon.tasks.kele.models.ModelSpec.load", lambda self, root: (None, None))
    dataset = {"name": "x", "source": "mquake", "version": "t", "known": "hops", "scan": 4}
    for _ in range(2):
        data = EditCases(str(tmp_path), dataset, "some-model", cases=None)
        data.prepare_data()
        data.setup("test")
        assert [case.id for case in data.cases] == ["1", "3"]
    assert asked == [("hops", ["0", "1", "2", "3"])]
    (note,) = (tmp_path / "kele").glob("known-*.json")
    kept = json.loads(note.read_text())
    assert kept["ids"] == ["1", "3"] and kept["rule"] == "hops" and kept["scanned"] == 4 and kept["kept"] == 2
    note.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        data.setup("test")


def filtered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A file of six cases in ``folder``, and how the texts began each time that a stubbed filter asked its model."""
    write(folder, "MQuAKE-T.json", [record(case_id=i) for i in range(6)])
    asked: list[str] = []

    def known(model: Any, tokenizer: Any, cases: Any, rule: str, relations: Any, protocol: Any, bos: str) -> list[str]:
        asked.append(bos)
        return ["1"]

    monkeypatch.setattr(data_known, "known", known)
    monkeypatch.setattr("decathlon.tasks.kele.models.ModelSpec.load", lambda self, root: (None, None))
    return asked


ANSWERED = {"name": "x", "source": "mquake", "version": "t", "known": "answer"}


def test_the_filter_asks_as_the_evaluation_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = filtered(tmp_path, monkeypatch)
    for bos, attached in ((None, None), (None, "auto"), ("off", None), (False, "auto"), (None, "off"), ("auto", "off")):
        data = EditCases(str(tmp_path), ANSWERED, "some-model", bos=bos)
        data.trainer = attached and SimpleNamespace(lightning_module=SimpleNamespace(bos=attached))  # type: ignore
        data.prepare_data()
    assert asked == ["auto", "off"]  # each once
    notes = [json.loads(path.read_text()) for path in (tmp_path / "kele").glob("known-*.json")]
    assert sorted(note["bos"] for note in notes) == ["auto", "off"]
    with pytest.raises(ConfigError, match="bos=on is neither auto nor off"):
        EditCases(str(tmp_path), ANSWERED, "some-model", bos="on")


def test_the_filter_knows_other_records_of_the_same_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = filtered(tmp_path, monkeypatch)
    EditCases(str(tmp_path), ANSWERED, "some-model").prepare_data()
    changed = record(case_id=2)
    changed["questions"] = [text + " really" for text in changed["questions"]]
    write(tmp_path, "MQuAKE-T.json", [record(case_id=i) if i != 2 else changed for i in range(6)])
    EditCases(str(tmp_path), ANSWERED, "some-model").prepare_data()
    assert len(asked) == 2


def test_the_filter_knows_a_retrained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = filtered(tmp_path, monkeypatch)
    folder = tmp_path / "mine"
    folder.mkdir()
    for weights in ("first", "first", "again!"):
        if not (folder / "model.safetensors").exists() or weights != "first":
            (folder / "model.safetensors").write_text(weights)
        (folder / "notes.log").write_text(weights * 2)
        EditCases(str(tmp_path), ANSWERED, str(folder)).prepare_data()
    assert len(asked) == 2
    assert ModelSpec("gpt2-xl").key == "gpt2-xl-float32"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m").mkdir()  # that name is the package's model, whatever lies here
    assert ModelSpec("smollm2-135m").key == "smollm2-135m-float32"
    assert ModelSpec("mine").key.startswith("mine-float32-")


def test_rules_of_the_filter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from decathlon.language import Scores
    from decathlon.tasks.kele.evaluation.protocol import Protocol

    write(tmp_path, "MQuAKE-T.json", [record(case_id=i) for i in range(2)])
    cases = mquake.load(tmp_path, "t").cases
    facts = {"Q: Ann's country? A:": " France", "Q: Capital of France? A:": " Paris"}
    asked: list[str] = []

    def generate(model: Any, tokenizer: Any, prompts: list[str], *rest: Any, **more: Any) -> list[str]:
        asked.extend(prompts)
        return [facts.get(prompt.rpartition("\n")[2], " Lyon") for prompt in prompts]

    monkeypatch.setattr(data_known, "generate", generate)
    monkeypatch.setattr("decathlon.tasks.kele.evaluation.protocol.generate", generate)
    relations = {"P27": "Q: x A: y", "P36": "Q: x A: y"}
    protocol = Protocol(demonstrations="Q: x A: y")
    assert data_known.known(None, None, cases, "hops", relations) == ["0", "1"]
    assert len(asked) == 2  # the same hop is asked once
    assert data_known.known(None, None, cases, "questions", relations, protocol) == []
    facts["Q: What is the capital of Ann's country? A:"] = " paris"
    assert data_known.known(None, None, cases, "questions", relations, protocol) == ["0", "1"]
    facts["Q: Capital of France? A:"] = " Lyon"
    assert data_known.known(None, None, cases, "hops", relations) == []
    with pytest.raises(DataError, match="no demonstrations for P36"):
        data_known.known(None, None, cases, "hops", {"P27": "Q: x A: y"})

    def score(model: Any, tokenizer: Any, prompts: list[str], answers: list[str], bos: str) -> Scores:
        separators.append(bos)
        mean = torch.tensor([-1.0 if answer == " France" else -2.0 for answer in answers])
        return Scores(mean, mean, torch.ones(len(answers)), torch.zeros(len(answers), dtype=torch.bool))

    separators: list[str] = []
    monkeypatch.setattr(data_known, "score", score)
    assert data_known.known(None, None, cases, "likelier") == ["0", "1"]
    assert data_known.known(None, None, cases, "answer") == []
    data_known.known(None, None, cases, "likelier", bos="off")
    assert separators == ["auto", "auto", "auto", "off", "off"]


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ({"source": "triviaqa"}, {}, "dataset.source=triviaqa is none of world, mquake, counterfact"),
        ({}, {"model": "gpt2-xl"}, "model=gpt2-xl does not go with dataset=world"),
        ({"source": "mquake"}, {}, "the world has its own model"),
        ({}, {"cases": 0}, "cases=0: at least one case"),
        ({}, {"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"known": "all"}, {}, "dataset.known=all is none of"),
        ({"known": "hops"}, {}, "needs the chains"),
        ({"pick": "last"}, {}, "neither first nor spread"),
    ],
)
def test_bad_options(dataset: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EditCases("data", WORLD | dataset, **({"model": "world"} | options))


def test_bad_training_options() -> None:
    with pytest.raises(ValueError, match=r"training has no option epochs; choose batch_size"):
        EditCases("data", WORLD, "world", training={"epochs": 3})
    with pytest.raises(ValueError, match="cases=31: this world has 30 people to edit"):
        EditCases("data", WORLD, "world", cases=31, training={"people": 40})
    with pytest.raises(ValueError, match="steps must be positive"):
        EditCases("data", WORLD, "world", training={"steps": 0})
    with pytest.raises(ValueError, match="training options belong to model=world"):
        EditCases("data", {"name": "m", "source": "mquake"}, "gpt2-xl", training={"steps": 1})
