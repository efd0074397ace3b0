"""The task as Lightning runs it: edits undone, rows written, resumed at the next case, shared between processes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from decathlon.errors import ConfigError, DataError
from decathlon.rows import append, mend, read_rows, rows_path
from decathlon.tasks.kele import module as module_file
from decathlon.tasks.kele.data.datamodule import EditCases
from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.module import EditEvaluation

SHORT = {"steps": 25, "people": 40, "warmup": 5}
METHOD = {"name": "kele", "class": "decathlon.tasks.kele.editors.kele.Kele", "steps": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("data"))


def make(root: str, **options: Any) -> tuple[EditEvaluation, EditCases]:
    common: dict[str, Any] = {"model": "world", "training": SHORT}
    data = EditCases(root, {"name": "world", "source": "world"}, cases=7, batch_size=3, **common)
    settings = {"multihop_mode": "generate+prob", "prompting": "none", "max_new_tokens": 1, "corpus": "world"}
    chosen: dict[str, Any] = {"method": METHOD, "samples": 60, **settings, **common, **options}
    return EditEvaluation(root, **chosen), data


def evaluated(module: EditEvaluation, data: EditCases, folder: Path, **trainer: Any) -> dict[str, float]:
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "enable_checkpointing": False}
    runner = L.Trainer(default_root_dir=folder, **(options | trainer))
    runner.test(module, data, verbose=False)
    return {name: float(value) for name, value in runner.callback_metrics.items()}


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "seconds" not in name}


@pytest.fixture(scope="module")
def whole(root: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], Path]:
    """The metrics and the folder of one uninterrupted evaluation, after which the weights are what they were."""
    folder = tmp_path_factory.mktemp("whole")
    module, data = make(root, figures=True)
    module.setup("test")
    before = {name: value.clone() for name, value in module.language_model.state_dict().items()}
    metrics = evaluated(module, data, folder)
    after = module.language_model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    return metrics, folder


def test_rows_and_metrics(root: str, whole: tuple[dict[str, float], Path]) -> None:
    metrics, folder = whole
    data = make(root)[1]
    data.setup("test")
    rows = read_rows(folder)
    assert len(rows) == 7 == metrics["test/cases"]
    assert {row["id"] for row in rows} == {case.id for case in data.cases}
    for name in ("mh", "mhp", "rev", "es", "ps", "ns", "ss", "rs_prob", "rank_old", "seconds", "bytes", "score"):
        assert f"test/{name}" in metrics
    assert metrics["test/mh"] == pytest.approx(sum(row["metrics"]["mh"] for row in rows) / 7)
    assert all(row["notes"] and row["seconds"] > 0 and row["bytes"] > 0 for row in rows)
    assert (folder / "rs_buckets.png").stat().st_size > 1000


def test_an_edit_changes_what_the_model_says(root: str, tmp_path: Path) -> None:
    edited, data = make(root, method={**METHOD, "steps": 20})
    evaluated(edited, data, tmp_path / "edited")
    zero, data = make(root, method={**METHOD, "steps": 1})  # one step is no step: h = 0
    evaluated(zero, data, tmp_path / "zero")
    for row, same in zip(read_rows(tmp_path / "edited"), read_rows(tmp_path / "zero")):
        assert row["edits"][0]["logp_new"] > same["edits"][0]["logp_new"]


def test_same_config_same_numbers(root: str, tmp_path: Path, whole: tuple[dict[str, float], Path]) -> None:
    assert timeless(evaluated(*make(root), tmp_path)) == timeless(whole[0])


class Stop(Exception):
    pass


def test_an_interrupted_evaluation_goes_on_at_the_next_case(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[dict[str, float], Path]
) -> None:
    seen: list[str] = []
    evaluate = module_file.evaluate

    def interrupted(model: Any, tokenizer: Any, case: Any, protocol: Any) -> dict[str, Any]:
        if len(seen) == 5:
            raise Stop
        seen.append(case.id)
        return evaluate(model, tokenizer, case, protocol)

    monkeypatch.setattr(module_file, "evaluate", interrupted)
    with pytest.raises(Stop):
        evaluated(*make(root), tmp_path / "cut")
    with open(rows_path(tmp_path / "cut"), "a") as file:
        file.write('{"id": "half a row')

    def counted(model: Any, tokenizer: Any, case: Any, protocol: Any) -> dict[str, Any]:
        seen.append(case.id)
        return evaluate(model, tokenizer, case, protocol)

    monkeypatch.setattr(module_file, "evaluate", counted)
    module, data = make(root)
    resumed = timeless(evaluated(module, data, tmp_path / "cut"))
    assert sorted(seen) == sorted(case.id for case in data.cases)  # each case once
    assert resumed == timeless(whole[0])  # to the last bit: the batch that was cut is prepared as a whole again


def test_two_processes_share_the_cases(root: str, tmp_path: Path, whole: tuple[dict[str, float], Path]) -> None:
    metrics, one = whole
    module, data = make(root)
    # What two ranks leave behind: their rows, one of them twice, since samplers even out the shares.
    rows = [(one / "cases-0.jsonl").read_text().splitlines(keepends=True)[i] for i in range(7)]
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "cases-0.jsonl").write_text("".join(rows[0::2]))
    (folder / "cases-1.jsonl").write_text("".join([*rows[1::2], rows[0]]))
    assert timeless(evaluated(module, data, folder)) == timeless(metrics)


def test_a_layer_that_the_model_does_not_have(root: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method=kele on model=world: layer=9 is outside .* 0 to 4"):
        evaluated(*make(root, layer=9), tmp_path)


class Fixed:
    """An editor that notes what it is asked and changes nothing."""

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        self.asked: list[list[list[Edit]]] = []

    def prepare(self, requests: Sequence[Sequence[Edit]]) -> list[Any]:
        from decathlon.tasks.kele.update import Update

        self.asked.append([list(request) for request in requests])
        return [Update() for _ in requests]

    @contextmanager
    def applied(self, update: Any) -> Iterator[None]:
        yield


def test_updates_of_a_batch_are_prepared_together(root: str, tmp_path: Path) -> None:
    module, data = make(root, method={"name": "fixed", "class": f"{__name__}.Fixed"})
    evaluated(module, data, tmp_path)
    assert [len(batch) for batch in module.editor.asked] == [3, 3, 1]
    again, data = make(root, method={"name": "fixed", "class": f"{__name__}.Fixed"})
    evaluated(again, data, tmp_path)
    assert again.editor.asked == []  # every case has its row


def test_the_cases_know_how_the_evaluation_begins_its_texts(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for name in ("prepare_data", "setup"):
        own = getattr(EditCases, name)
        monkeypatch.setattr(EditCases, name, lambda data, own=own, **more: (seen.append(data.bos), own(data, **more)))
    module, data = make(root, bos="off", method={"name": "fixed", "class": f"{__name__}.Fixed"})
    evaluated(module, data, tmp_path)
    assert seen == ["off", "off"]


def test_rows_file(tmp_path: Path) -> None:
    path = rows_path(tmp_path)
    append(path, [{"id": "b", "text": "line\u2028separator\n"}, {"id": "a"}])
    assert [row["id"] for row in read_rows(tmp_path)] == ["a", "b"]
    with open(path, "a") as file:
        file.write('{"id": ')
    assert len(read_rows(tmp_path)) == 2  # a line that is being written
    mend(path)
    append(path, [{"id": "c"}])
    assert [row["id"] for row in read_rows(tmp_path)] == ["a", "b", "c"]
    path.write_text(path.read_text().replace('{"id": "a"}', '{"id": "a"'))
    with pytest.raises(DataError, match=r"cases-0.jsonl, line 2: .*; remove the line"):
        read_rows(tmp_path)
    mend(tmp_path / "absent")
    assert read_rows(tmp_path / "absent") == []


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"id": "d", "edits": [{"logp_new": float("nan"), "rank_old": 2.0}], "notes": ({"loss": float("inf")},)}
    with caplog.at_level("WARNING"):
        append(rows_path(tmp_path), [{"id": "c", "x": 1.0}, row])
    assert [record.getMessage() for record in caplog.records] == [
        "case d: not finite, written as null: edits[0].logp_new, notes[0].loss"
    ]
    first, second = read_rows(tmp_path)
    assert first == {"id": "c", "x": 1.0}
    assert second == {"id": "d", "edits": [{"logp_new": None, "rank_old": 2.0}], "notes": [{"loss": None}]}


class Exploding(Fixed):
    """Its second update ruins the model."""

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        super().__init__(model, tokenizer)
        self.model = model

    def prepare(self, requests: Sequence[Sequence[Edit]]) -> list[Any]:
        updates = super().prepare(requests)
        self.bad = updates[1] if len(self.asked) == 1 else None
        return updates

    @contextmanager
    def applied(self, update: Any) -> Iterator[None]:
        weight = self.model.transformer.h[0].mlp.c_proj.weight
        saved = weight.clone()
        if update is self.bad:
            weight.fill_(float("nan"))
        yield
        weight.copy_(saved)


def test_an_edit_that_explodes_is_a_failed_case_and_not_the_end(root: str, tmp_path: Path) -> None:
    module, data = make(root, method={"name": "exploding", "class": f"{__name__}.Exploding"})
    metrics = evaluated(module, data, tmp_path)
    assert metrics["test/cases"] == 7 and metrics["test/failed"] == 1
    assert all(math.isfinite(value) for value in metrics.values())
    bad = next(row for row in read_rows(tmp_path) if row["id"] == data.cases[1].id)
    assert bad["edits"][0]["logp_new"] is None and bad["edits"][0]["rank_old"] is None
    assert {bad["metrics"][name] for name in ("es", "es_acc", "ps", "ns", "mh", "mhp", "ss", "instance_wise")} == {0}
    assert not {"em", "nm", "rs_prob", "rank_old"} & bad["metrics"].keys()
    again, data = make(root, method={"name": "exploding", "class": f"{__name__}.Exploding"})
    assert evaluated(again, data, tmp_path) == metrics  # from the file, where the numbers are null


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": {**METHOD, "colour": 1}}, "method=kele has no option colour; choose "),
        ({"method": {**METHOD, "lr": -1.0}}, r"method=kele: lr=-1.0 must be positive"),
        ({"method": {**METHOD, "key_mode": "x"}}, "method=kele: key_mode=x is unknown"),
        ({"multihop_mode": "x"}, "multihop_mode=x is none of"),
        ({"prompting": "x"}, "prompting=x is none of"),
        ({"bos": "on"}, "bos=on is neither auto nor off"),
        ({"model": "gpt2-xl", "training": None}, "corpus=world belongs to model=world"),
        ({"samples": 0}, "samples=0 must be at least 1"),
    ],
)
def test_bad_options(root: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        make(root, **options)
