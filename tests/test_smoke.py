"""Every task runs with ``+debug=true``: what there is to run is found in the configs.

Each method on its task's default dataset and each embedded dataset with the default method; all pairs are ``slow``.
"""

import math
from fnmatch import fnmatch
from pathlib import Path

import pytest

from decathlon.runner import catalog
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job

TASKS = [task for task in catalog.tasks() if task != "toy"]


def defaults(task: str) -> tuple[str, str]:
    """The default dataset and method of a task."""
    chosen = {key: value for entry in catalog.read(f"task/{task}")["defaults"] if isinstance(entry, dict)
              for key, value in entry.items()}  # fmt: skip
    return chosen["override /dataset"], chosen["override /method"]


def pairs(task: str) -> list[tuple[str, str]]:
    """All embedded datasets of a task, each with the methods that can run on it."""
    found = []
    for dataset in catalog.datasets(task):
        spec = catalog.read(f"datasets/{task}/{dataset}")
        if spec.get("embedded"):
            found += [(dataset, method) for method in spec.get("methods") or catalog.methods(task)]
    return found


def cases() -> list[pytest.param]:
    """(task, dataset, method, whether figures are drawn): the first of each task draws."""
    found = []
    for task in TASKS:
        dataset, method = defaults(task)
        for pair in pairs(task):
            first_method = next(name for place, name in pairs(task) if place == pair[0])
            has_default = (pair[0], method) in pairs(task)
            quick = pair[0] == dataset or pair[1] == (method if has_default else first_method)
            marks = [] if quick else [pytest.mark.slow]
            found.append(pytest.param(task, *pair, pair == (dataset, method), marks=marks, id="-".join((task, *pair))))
    return found


@pytest.mark.parametrize(("task", "dataset", "method", "figures"), cases())
def test_smoke(task: str, dataset: str, method: str, figures: bool, tmp_path: Path, embedded_data: Path) -> None:
    overrides = [f"task={task}", f"dataset={dataset}", f"method={method}", "+debug=true", "trainer=cpu"]
    places = [f"data_dir={embedded_data}", f"results_dir={tmp_path}"]
    if "figures" in catalog.read(f"task/{task}"):
        overrides.append(f"figures={figures}")
    job = Job.of(compose_config([*overrides, *places]))
    job.folder.mkdir(parents=True)
    outcome = execute(job.config, job.folder, construct(job.config))
    shown = job.config["report"] or [name for name in outcome["metrics"] if name.startswith("test/")]
    assert shown and shown[0] in outcome["metrics"], outcome["metrics"]
    may = [pattern for group in ("dataset", "method") for pattern in job.config[group].get("undefined") or []]
    odd = {name for name, value in outcome["metrics"].items() if value is None or not math.isfinite(value)}
    odd = {name for name in odd if not any(fnmatch(name, pattern) for pattern in may)}
    assert not odd, f"not finite: {sorted(odd)}"


@pytest.mark.parametrize("task", catalog.tasks())
def test_every_config_of_a_task_composes(task: str) -> None:
    for dataset in catalog.datasets(task):
        Job.of(compose_config([f"task={task}", f"dataset={dataset}"]))
    for method in catalog.methods(task):
        assert Job.of(compose_config([f"task={task}", f"method={method}"])).method == method


@pytest.mark.parametrize("name", [name for task in catalog.tasks() for name in catalog.experiments(task)])
def test_every_table_can_be_laid_out(name: str, tmp_path: Path) -> None:
    from decathlon.tables.render import FORMATS
    from decathlon.tables.table import make_table

    table = make_table(name, [f"results_dir={tmp_path}"])
    assert table.jobs > 0 and table.rows and table.columns
    for form in FORMATS.values():
        assert form(table)
