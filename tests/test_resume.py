"""A job of each paper that is killed inside an epoch and moved goes on to the bits of the whole run, or is refused."""

from pathlib import Path
from typing import Any

import pytest

from decathlon.errors import ConfigError
from decathlon.runner import catalog
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from tests.test_smoke import TASKS, defaults

TIMES = ("seconds", "time", "memory", "per_second")
CASES = [(task, *defaults(task)) for task in TASKS if catalog.read(f"task/{task}").get("fit", True)]
CASES += [("pinn", "digits_overlay", "config"), ("pinn", "toy2d", "config")]


class Killed(BaseException):
    """What ends an attempt, as a signal would."""


def attempt(case: tuple[str, str, str], root: Path, data: Path, at: int | None) -> dict[str, Any] | None:
    """The metrics of a job, or None when it was killed in its training step number ``at``, from 0."""
    task, dataset, method = case
    overrides = [f"task={task}", f"dataset={dataset}", f"method={method}", "+debug=true", "trainer=cpu"]
    if "figures" in catalog.read(f"task/{task}"):
        overrides.append("figures=false")
    places = [f"data_dir={data}", f"results_dir={root}", "checkpoint.every_n_steps=1"]
    job = Job.of(compose_config([*overrides, *places]))
    job.folder.mkdir(parents=True, exist_ok=True)
    module, source = construct(job.config)
    steps, real = 0, module.training_step

    def training_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        if steps == at:
            raise Killed
        steps += 1
        return real(*args, **kwargs)

    module.training_step = training_step  # type: ignore[method-assign]
    try:
        return execute(job.config, job.folder, (module, source))["metrics"]
    except Killed:
        return None


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_killed_inside_an_epoch(case: tuple[str, str, str], tmp_path: Path, embedded_data: Path) -> None:
    try:
        whole = attempt(case, tmp_path / "whole", embedded_data, at=None)
    except ConfigError as error:
        assert "cannot resume inside an epoch" in str(error) and "\n" not in str(error)
        return
    assert whole is not None
    resumed, moves = attempt(case, tmp_path / "0", embedded_data, at=1), 0
    while resumed is None:  # a task may train in a single step: nothing to kill
        (tmp_path / str(moves)).rename(tmp_path / str(moves + 1))
        moves += 1
        resumed = attempt(case, tmp_path / str(moves), embedded_data, at=1 if moves == 1 else None)
    assert set(resumed) == set(whole)
    odd = {
        name: (whole[name], resumed[name])
        for name in whole
        if whole[name] != resumed[name] and not any(word in name for word in TIMES)
    }
    assert not odd
