"""Every task × method × embedded dataset, found in the configs, runs with ``+debug=true``."""

from pathlib import Path

import pytest

from decathlon.runner import catalog
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job

CASES = [
    (task, dataset, method)
    for task in catalog.tasks()
    for dataset in catalog.datasets(task)
    if catalog.read(f"datasets/{task}/{dataset}").get("embedded")
    for method in catalog.read(f"datasets/{task}/{dataset}").get("methods") or catalog.methods(task)
    if task != "toy"
]


@pytest.mark.parametrize(("task", "dataset", "method"), CASES)
def test_smoke(task: str, dataset: str, method: str, tmp_path: Path, embedded_data: Path) -> None:
    overrides = [f"task={task}", f"dataset={dataset}", f"method={method}", "+debug=true", "trainer=cpu"]
    cfg = compose_config([*overrides, f"data_dir={embedded_data}", f"results_dir={tmp_path}"])
    job = Job.of(cfg)
    job.folder.mkdir(parents=True)
    outcome = execute(job.config, job.folder, construct(job.config))
    shown = job.config["report"] or [name for name in outcome["metrics"] if name.startswith("test/")]
    assert shown and shown[0] in outcome["metrics"], outcome["metrics"]


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
