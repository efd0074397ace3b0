"""The paper's configurations compose, and its protocol runs on small random models of the paper's architectures."""

import json
from pathlib import Path
from typing import Any

import pytest

from decathlon.language.tiny import tiny_model, word_tokenizer
from decathlon.rows import read_rows
from decathlon.tables import plan as experiment
from decathlon.tasks.kele.data.datamodule import EditCases
from decathlon.tasks.kele.module import EditEvaluation
from tests.tasks.kele.common import metrics_of

PEOPLE, COUNTRIES, CITIES = ("Ann", "Bob", "Cid"), ("France", "Italy", "Spain"), ("Paris", "Rome", "Madrid")


def record(index: int) -> dict[str, Any]:
    """A case of two hops with one edit (even) or two (odd)."""
    person, old, new = PEOPLE[index % 3], index % 3, (index + 1) % 3
    edits = [("{} is a citizen of", person, COUNTRIES[old], COUNTRIES[new])]
    end = new
    if index % 2:
        end = (new + 1) % 3
        edits.append(("The capital of {} is", COUNTRIES[new], CITIES[new], CITIES[end]))

    def chain(country: int, city: int) -> list[dict[str, Any]]:
        return [
            {"question": f"Country of {person} ?", "answer": COUNTRIES[country], "answer_alias": []},
            {"question": f"Capital of {COUNTRIES[country]} ?", "answer": CITIES[city], "answer_alias": []},
        ]

    return {
        "case_id": index,
        "requested_rewrite": [
            {"prompt": p, "subject": s, "target_true": {"str": o}, "target_new": {"str": n}} for p, s, o, n in edits
        ],
        "questions": [f"{word} capital of the country of {person} ?" for word in ("Which", "What", "Name")],
        "answer": CITIES[old], "answer_alias": [], "new_answer": CITIES[end], "new_answer_alias": [],
        "single_hops": chain(old, old), "new_single_hops": chain(new, end),
        "orig": {"triples": [["Q1", "P27", "Q2"], ["Q2", "P36", "Q3"]]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    records = [record(index) for index in range(4)]
    (folder / "MQuAKE-T.json").write_text(json.dumps(records))
    shown = "Q: Which capital of the country of Bob ? A: Rome"
    (folder / "multihop-prompts.txt").write_text(shown)
    (folder / "multihop-cot-prompts.txt").write_text(f"{shown} Question: Thoughts: Answer: Paris")
    (folder / "rel-prompts.json").write_text(json.dumps({"P27": shown, "P36": shown}))
    corpus = [" ".join([*PEOPLE, "is a citizen of", *COUNTRIES[i:], "The capital of", *CITIES]) for i in range(3)] * 20
    (folder / "corpus.txt").write_text("\n".join(corpus))
    text = json.dumps(records) + " ".join(corpus) + shown + "The answer to this question, most simply, is"
    words = sorted({word.strip('",[]{}:') for word in text.split()} | set(text.replace('"', " ").split()))
    tokenizer = word_tokenizer([word for word in words if word])
    for family in ("gpt2", "gptj", "llama"):
        tiny_model(family, len(tokenizer), layers=9 if family == "gptj" else 4).save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    return folder


def run(root: Path, folder: Path, family: str, method: dict[str, Any], **options: Any) -> dict[str, float]:
    dataset = {"name": "t", "source": "mquake", "version": "t"}
    path = str(root / family)
    data = EditCases(str(root), dataset, path, batch_size=3)
    module = EditEvaluation(str(root), method, path, corpus="corpus.txt", samples=60, max_new_tokens=2, **options)
    return metrics_of(module, data, folder)


EDITORS = "decathlon.tasks.kele.editors"


@pytest.mark.parametrize(
    ("family", "preset", "method"),
    [
        ("gptj", "gpt-j-6b", {"name": "kele", "class": f"{EDITORS}.kele.Kele", "steps": 3}),
        ("gptj", "gpt-j-6b", {"name": "memit", "class": f"{EDITORS}.memit.Memit", "steps": 3}),
        ("gpt2", None, {"name": "rome", "class": f"{EDITORS}.rome.Rome", "steps": 3, "key_mode": "rome"}),
        ("llama", None, {"name": "ft", "class": f"{EDITORS}.finetune.FineTune", "steps": 2}),
    ],
)
def test_the_protocol_on_random_models_of_each_family(
    root: Path, tmp_path: Path, family: str, preset: str | None, method: dict[str, Any]
) -> None:
    options = {"contexts": ["Name the"]} if "ft" not in method["name"] else {}
    full = method | options | {"preset": preset}
    metrics = run(root, tmp_path, family, full, multihop_mode="generate+prob+fuzzy")
    assert metrics["test/cases"] == 4 and metrics["test/edits"] == 6
    rows = read_rows(tmp_path)
    assert [len(row["edits"]) for row in rows] == [1, 2, 1, 2]
    assert all(len(row["notes"]) >= 1 and row["bytes"] > 0 for row in rows)
    for name in ("mh_any", "mh_any_edits1", "mh_any_edits2", "mhp", "mh_fuzzy", "rev", "edit_wise", "instance_wise"):
        assert 0 <= metrics[f"test/{name}"] <= 1
    assert all("said" in question and "likelier_new" in question for row in rows for question in row["questions"])


def test_chain_of_thought_and_no_edit(root: Path, tmp_path: Path) -> None:
    method = {"name": "none", "class": f"{EDITORS}.none.NoEdit"}
    metrics = run(root, tmp_path, "llama", method, prompting="cot", fluency_tokens=6)
    assert metrics["test/bytes"] == 0 and "test/fluency" in metrics and "test/mhp" not in metrics


def test_the_paper_tables_name_its_models() -> None:
    jobs = [planned.job.config for planned in experiment.load("kele/table1", ["method=kele"]).jobs]
    assert [config["model"] for config in jobs] == ["openai-community/gpt2-xl", "EleutherAI/gpt-j-6b"]
    assert {config["cases"] for config in jobs} == {None} and {config["fit"] for config in jobs} == {False}
    assert {config["module"]["method"]["depth"] for config in jobs} == {20}


def test_small_shares_a_world_among_methods_and_none_among_seeds() -> None:
    paths = set()
    for planned in experiment.load("kele/small", ["method=kele,rome"]).jobs:
        config = planned.job.config
        spec = EditCases(**{key: value for key, value in config["data"].items() if key != "_target_"}).spec
        paths.add((config["seed"], spec.world_training().path(".")))
    assert len(paths) == len({seed for seed, _ in paths}) == len({path for _, path in paths}) >= 3
