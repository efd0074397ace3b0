"""Tables: tuned cells, diverged seeds, columns that a metric does not apply to, tables wider than the screen."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from decathlon.errors import ConfigError
from decathlon.runner.layout import Layout
from decathlon.runner.tuning import lost_metrics
from decathlon.tables import plan as experiments
from decathlon.tables import render
from decathlon.tables import table as tables
from decathlon.tables.claims import judge
from decathlon.tables.plan import Experiment, PlannedJob

LAYOUT = {"title": "t", "rows": ["method"], "columns": ["dataset"], "metrics": {"mse": {"better": "lower"}, "f1": {}}}


class Done:
    """A finished job with the given metrics."""

    folder = Path(__file__)  # one that is there

    def __init__(self, **metrics: float) -> None:
        self.metrics = metrics
        self.identity = str(id(self))
        self.record_path = self

    def exists(self) -> bool:
        return True

    def record(self) -> dict:
        return {"metrics": self.metrics}


def planned(dataset: str, lr: float, seed: int, **metrics: float) -> PlannedJob:
    return PlannedJob(Done(**metrics), {"method": "a", "dataset": dataset, "lr": lr, "seed": seed})  # type: ignore[arg-type]


def small(tune: dict) -> Experiment:
    jobs = [
        planned("flow", 1, 0, mse=3.0), planned("flow", 1, 1, mse=5.0),
        planned("flow", 2, 0, mse=1.0), planned("flow", 2, 1, mse=2.0),
        planned("labels", 1, 0, f1=0.5, val=0.9), planned("labels", 2, 0, f1=0.7, val=0.8),
    ]  # fmt: skip
    return Experiment("x", Layout(**LAYOUT, tune=tune), ["method", "dataset", "lr", "seed"], jobs)


def test_each_cell_is_shown_at_its_best_setting() -> None:
    results = experiments.gather(small({"key": "lr", "metric": {"val": "higher", "mse": "lower"}}))
    assert results.tuned == {("a", "flow"): 2, ("a", "labels"): 1}
    assert results.values["a", "flow"] == {0: {"mse": 1.0}, 1: {"mse": 2.0}}
    assert results.values["a", "labels"][0]["f1"] == 0.5  # tuned on val, not on f1
    assert experiments.gather(small({"key": "lr", "metric": "f1", "better": "higher"})).tuned["a", "labels"] == 2


def test_settings_with_missing_or_diverged_seeds_come_last() -> None:
    experiment = small({"key": "lr", "metric": "mse"})
    experiment.jobs.append(planned("flow", 3, 0, mse=0.1))
    experiment.jobs.append(planned("flow", 3, 1))  # diverged: no number
    assert experiments.gather(experiment).tuned["a", "flow"] == 2


def test_columns_only_where_the_metric_is_measured(monkeypatch) -> None:
    experiment = small({"key": "lr", "metric": {"val": "higher", "mse": "lower"}})
    monkeypatch.setattr(experiments, "load", lambda name, overrides: experiment)
    assert tables.make_table("x").columns == [(("flow",), "mse"), (("labels",), "f1")]
    assert tables.make_table("x", metrics=["f1"]).columns == [(("labels",), "f1")]
    with pytest.raises(ConfigError, match="acc is no metric of x; choose mse, f1"):
        tables.make_table("x", metrics=["acc"])
    experiment.jobs[:] = experiment.jobs[:4]
    assert tables.make_table("x").columns == [(("flow",), "mse")]


def test_a_table_of_jobs_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="widht is no key of the jobs of toy/small"):
        experiments.load("toy/small", ["widht=3"])
    plain = experiments.load("toy/small")
    launched = experiments.load("toy/small", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
    assert [p.job.identity for p in launched.jobs] == [p.job.identity for p in plain.jobs] and not launched.narrowed


def test_claims_about_cells_that_were_left_out_are_undecided() -> None:
    whole = experiments.load("toy/small")
    method = whole.jobs[0].values["method"]
    narrow = experiments.load("toy/small", [f"method={method}", "seed=0,1"])
    assert {verdict.verdict for verdict in judge(narrow, experiments.gather(narrow))} == {"undecided"}


def of_two_methods(a: list[dict], b: list[dict], **layout: object) -> Experiment:
    """A table of one column with the records of two methods, one seed each."""
    jobs = [
        PlannedJob(Done(**metrics), {"method": method, "seed": seed})  # type: ignore[arg-type]
        for method, records in (("a", a), ("b", b))
        for seed, metrics in enumerate(records)
    ]
    section = {"title": "t", "rows": ["method"], "columns": [], "metrics": {"mse": {"better": "lower"}, "f1": {}}}
    claims = [{"says": "a is better", "check": "a < b"}, {"says": "by f1", "check": "a > b", "metric": "f1"}]
    return Experiment("x", Layout(**{**section, "claims": claims, **layout}), ["method", "seed"], jobs)  # type: ignore[arg-type]


def test_a_diverged_seed_is_counted_and_claims_are_not_decided_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    good = [{"mse": 1.0 + s / 10, "f1": 0.9 + s / 100} for s in range(3)]
    bad = [{"mse": 5.2 + s / 10, "f1": 0.1 + s / 100} for s in range(2)]
    for record in ({"mse": None, "f1": 0.5}, {"mse": math.nan}, {"mse": 2.0, "f1": 0.2, "test/diverged": 1.0}):
        experiment = of_two_methods(good, [*bad, record])
        monkeypatch.setattr(experiments, "load", lambda name, overrides, made=experiment: made)
        table = tables.make_table("x")
        entry = table.entries[("b",), (), "mse"]
        assert (entry.diverged, entry.n, entry.expected) == (1, 2, 3) and entry.mean == pytest.approx(5.25)
        assert render.cell(entry, {"digits": 2}) == "5.25 ± 0.07 (n=2/3, 1 diverged)"
        first, second = table.verdicts
        assert first.verdict == "undecided" and first.why.startswith("1 diverged in b; without them: difference +4")
        assert second.verdict == ("undecided" if "f1" in record else "holds")
    experiment = of_two_methods(good, [{"mse": None, "f1": None}] * 3)
    monkeypatch.setattr(experiments, "load", lambda name, overrides: experiment)
    table = tables.make_table("x")
    assert table.columns == [((), "mse"), ((), "f1")], "a metric that nobody reached is still measured"
    assert render.cell(table.entries[("b",), (), "mse"], {}) == "3 diverged"
    assert table.verdicts[0].why == "3 diverged in b"


def test_what_a_job_has_lost() -> None:
    layout = Layout("t", ["method"], [], {"mse": {}, "f1": {}}, tune={"key": "lr", "metric": "val"})
    assert lost_metrics({"mse": 1.0, "f1": 2.0, "val": 1.0}, layout) == {}
    assert lost_metrics({"mse": 1.0, "f1": None}, layout) == {"f1": "undefined"}
    assert lost_metrics({"f1": None}, layout) == {"f1": "diverged"}, "its main metric is the first that it has"
    every = {"mse": "diverged", "f1": "diverged", "val": "diverged"}
    assert lost_metrics({"mse": None, "f1": 2.0, "val": 1.0}, layout) == every
    assert lost_metrics({"mse": 1.0, "f1": 2.0, "val": 1.0, "test/diverged": 1.0}, layout) == every


def test_before_anything_is_finished_a_metric_is_shown_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small({"key": "lr", "metric": "mse"})
    experiment.layout.metrics = {"mse": {"only": {"dataset": ["flow"]}}, "f1": {"only": {"dataset": ["labels"]}}}
    monkeypatch.setattr(Done, "record", lambda self: None)
    monkeypatch.setattr(Done, "failure", lambda self: None, raising=False)
    monkeypatch.setattr(experiments, "load", lambda name, overrides: experiment)
    assert tables.make_table("x").columns == [(("flow",), "mse"), (("labels",), "f1")]


@pytest.mark.parametrize("name", ["pinn/small", "jregnet/small", "molpeg/small", "kele/small"])
@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_the_screen_and_break_at_words(name: str, width: int, tmp_path) -> None:
    table = tables.make_table(name, [f"results_dir={tmp_path}"])
    for number, entry in enumerate(table.entries.values()):  # as wide as numbers get
        entry.mean, entry.std, entry.n = 0.25 + number / 7, 0.125, entry.expected
    sink = io.StringIO()
    render.to_terminal(table, Console(file=sink, width=width, highlight=False, soft_wrap=True))
    lines = sink.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = sink.getvalue()
    for verdict in table.verdicts:
        assert all(word in text for word in verdict.says.split() if len(word) < width - 20), "a word was broken"
    first_table = min(number for number, line in enumerate(lines) if line.startswith("┏"))
    assert lines[-1].startswith("claims: ") and not any("holds  " in line for line in lines[first_table:])
