"""Tables: tuned cells, columns that a metric does not apply to."""

import pytest

from decathlon.errors import ConfigError
from decathlon.tables import plan as experiments
from decathlon.tables import table as tables
from decathlon.tables.claims import judge
from decathlon.tables.plan import Experiment, Layout, PlannedJob

LAYOUT = {"title": "t", "rows": ["method"], "columns": ["dataset"], "metrics": {"mse": {"better": "lower"}, "f1": {}}}


class Done:
    """A finished job with the given metrics."""

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
