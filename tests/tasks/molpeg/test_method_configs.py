"""The configs: all methods, all tables, the paper's numbers, and claims that a program can decide."""

import math
from itertools import product

import pytest
import yaml

from decathlon.pruning.method import check_method
from decathlon.runner.catalog import CONFIGS
from decathlon.runner.compose import compose_config, resolve, settle
from decathlon.runner.layout import Layout, canonical
from decathlon.tables import plan as experiments
from decathlon.tables.claims import judge
from decathlon.tables.plan import Experiment, PlannedJob, Results

METHODS = [
    "molpeg", "hard_random", "random", "rankloss", "herding", "kmeans", "least_confidence", "entropy", "forgetting",
    "grand4", "grand20", "el2n", "glister", "craig", "cd", "deepfool", "influence", "dp", "epsilon_greedy", "ucb",
    "infobatch", "full",
]  # fmt: skip
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment/molpeg").glob("*.yaml"))


def test_all_methods_are_there() -> None:
    found = {path.stem for path in (CONFIGS / "methods/molpeg").glob("*.yaml")}
    assert found == set(METHODS)
    assert {"table1", "table5", "table6", "fig3", "fig5", "fig6", "qm9", "small", "hiv_small"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_names_its_class_and_valid_options(method: str) -> None:
    spec = resolve(settle(compose_config(["task=molpeg", f"method={method}"])))["method"]
    kind = check_method(spec, 0.6)
    assert spec["name"] == method and spec["title"]
    if kind.wants_evidence:
        given = set(spec) - {"name", "title", "class", "scoring", "ignores"}
        assert given == set(kind.options) and spec["scoring"]["epochs"] in (4, 20)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_claims_of_a_table_can_be_decided(name: str) -> None:
    """Every cell that a claim names is a cell of the sweep (planned by hand: composing hundreds of jobs takes long)."""
    config = yaml.safe_load((CONFIGS / f"experiment/molpeg/{name}.yaml").read_text())
    layout = Layout(**config["table"])
    swept = {key: str(values).split(",") for key, values in config["hydra"]["sweeper"]["params"].items()}
    assert set(swept) == {*layout.keys, "seed"}
    cells = [dict(zip(swept, combination, strict=True)) for combination in product(*swept.values())]
    jobs = [PlannedJob(None, cell) for cell in cells]  # type: ignore[arg-type]
    made_up = {
        tuple(canonical(cell[key]) for key in layout.keys): {
            seed: dict.fromkeys([*layout.metrics, "train/kept_positive"], 50.0) for seed in (0, 1)
        }
        for cell in cells
    }
    verdicts = judge(Experiment(name, layout, list(swept), jobs), Results(made_up, {}, {}, {}))
    assert verdicts and all(verdict.verdict in ("holds", "fails") for verdict in verdicts)


def test_a_table_can_be_planned() -> None:
    table = experiments.load("molpeg/fig3", ["seed=0"])
    assert [job.job.config["method"]["selection"] for job in table.jobs] == ["both", "easy", "hard"]
    assert all(job.job.config["module"]["test_curve"] for job in table.jobs)
    assert table.jobs[0].job.config["data"]["pretrain"]["source"] == "pcqm4mv2"


def numbers(node: object) -> list[float]:
    if isinstance(node, dict):
        return [number for value in node.values() for number in numbers(value)]
    assert isinstance(node, int | float)
    return [float(node)]


def test_the_papers_numbers_are_there_in_full() -> None:
    table = yaml.safe_load((CONFIGS / "experiment/molpeg/table1.yaml").read_text())["table"]
    paper = table["paper"]
    assert set(paper) == set(METHODS) - {"rankloss"}
    assert all(len(numbers(row)) == 12 for row in paper.values())
    assert math.isclose(sum(numbers(paper["molpeg"]["hiv"])), 510.9) and paper["herding"]["pcba"][0.9] == 8.1
    assert paper["infobatch"]["hiv"][0.4] == 85.4 and paper["full"] == {
        "hiv": dict.fromkeys((0.9, 0.8, 0.7, 0.6, 0.4, 0.2), 85.1),
        "pcba": dict.fromkeys((0.9, 0.8, 0.7, 0.6, 0.4, 0.2), 26.3),
    }
    paper = yaml.safe_load((CONFIGS / "experiment/molpeg/fig5.yaml").read_text())["table"]["paper"]
    assert set(paper) == {"graphmae", "graphcl"}
    assert len(numbers(paper["graphcl"])) == 8 * 12 - 2  # two points lie below the plot
    assert paper["graphcl"]["molpeg"]["hiv"][0.2] == 86.3


def test_jobs_are_shared_where_pruning_changes_nothing() -> None:
    table = experiments.load("molpeg/small", ["method=full,random", "seed=0"])
    jobs = {
        method: {job.job.identity for job in table.jobs if job.job.method == method} for method in ("full", "random")
    }
    assert len(jobs["full"]) == 1 and len(jobs["random"]) == 2
