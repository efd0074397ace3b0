"""The harness for GLUE: its accuracy is that of the model's own likelihoods, and what fails says so."""

import builtins
import importlib.util
import json
from pathlib import Path

import pytest

import decathlon as package
from decathlon.errors import ConfigError
from decathlon.tasks.osd import glue
from tests.test_trained import finished


@pytest.fixture
def job(here: Path) -> Path:
    """A job that has trained a tiny model on bytes."""
    (here / "count.txt").write_text("\n\n".join(f"The number {i} is followed by {i + 1}." for i in range(400)))
    return finished(here, "task=osd", "dataset=text", "files=count.txt", "figures=false")[0].folder


def test_accuracy_is_that_of_the_likelier_answer(job: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(here / "hub"))
    questions = [{"text": f"The number {i} is followed by", "label": i % 2} for i in range(12)]
    (here / "asked.json").write_text("\n".join(map(json.dumps, questions)))
    task = {
        "task": "numbers", "dataset_path": "json", "output_type": "multiple_choice", "validation_split": "validation",
        "dataset_kwargs": {"data_files": {"validation": str(here / "asked.json")}},
        "doc_to_text": "text", "doc_to_target": "label", "doc_to_choice": ["no", "12."],
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    found = package.load(job)
    accuracy = glue.evaluate(found, [task])
    right = 0
    for question in questions:
        nats, _, _ = found.losses([f"{question['text']} {answer}" for answer in ("no", "12.")])
        right += int(nats.argmin()) == question["label"]
    assert accuracy == {"numbers": pytest.approx(right / len(questions))}


def test_without_the_harness_one_line_says_what_to_install(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else whole(name))
    with pytest.raises(ConfigError, match=r"decathlon\[glue\]"):
        glue.evaluate(package.load(job))
    with pytest.raises(SystemExit, match=r"^error: .*decathlon\[glue\]"):
        glue.main([str(job)])
    with pytest.raises(SystemExit, match=r"^error: .*holds no finished job"):
        glue.main([str(job.parent / "nothing")])


def test_the_table_puts_a_job_beside_the_paper(monkeypatch: pytest.MonkeyPatch, job: Path) -> None:
    said: list[str] = []
    monkeypatch.setattr(builtins, "print", said.append)
    monkeypatch.setattr(glue, "evaluate", lambda *_: {"rte": 0.5, "sst2": 0.6})
    glue.main([str(job), "--tasks", "rte", "sst2"])
    assert "0.5000  0.6000  0.5500" in said[0]
    assert "0.4901  0.5233  0.5067" in said[0]
    assert json.loads((job / "glue.json").read_text()) == {"rte": 0.5, "sst2": 0.6}
