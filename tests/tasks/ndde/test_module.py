"""Jobs of the task: interrupted and resumed, own data, the paper's points, bad keys in one line."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from decathlon.errors import ConfigError, DataError
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from decathlon.tasks.ndde import Unknown
from decathlon.tasks.ndde.data import DelayData
from tests.conftest import ROOT

SMALL = ["adam_steps=300", "bfgs_steps=150", "points=20", "widths=[5]", "figures=false", "trainer=cpu"]


def job(tmp_path: Path, *overrides: str) -> Job:
    made = Job.of(compose_config(["task=ndde", *overrides, f"results_dir={tmp_path}", f"data_dir={tmp_path}/data"]))
    made.folder.mkdir(parents=True, exist_ok=True)
    return made


def run(made: Job) -> dict[str, Any]:
    return execute(made.config, made.folder, construct(made.config))["metrics"]


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if "seconds" not in name}


def test_a_job_that_is_killed_between_or_inside_its_stages_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: Any
) -> None:
    from decathlon.tasks.ndde.solvers import Pinn

    whole = run(job(tmp_path / "whole", *SMALL, "steps_per_epoch=1"))
    part = job(tmp_path / "part", *SMALL, "steps_per_epoch=1")
    advance, calls = Pinn.advance, 0

    def fragile(self: Pinn) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls in (4, 6):  # after the last block of Adam, and after a block of BFGS
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Pinn, "advance", fragile)
    for _ in range(2):
        with pytest.raises(BaseException):  # noqa: B017
            run(part)
    found = run(part)
    assert calls == 3 + 3 + 2  # nothing was done twice
    assert without_times(found) == without_times(whole)


def test_own_observations_of_a_csv_file(tmp_path: Path) -> None:
    problem = DelayData(tmp_path, dict(job(tmp_path, "dataset=sir_inverse").config["dataset"])).truth
    from decathlon.tasks.ndde import solve

    times = torch.linspace(1, 10, 8, dtype=torch.float64)
    values = solve(problem, step=0.02)(times)
    lines = ["t,S,I,R"]
    for k in range(8):
        cells = [f"{float(v):.12g}" for v in values[:, k]]
        cells[2] = "" if k % 2 else cells[2]
        lines.append(f"{float(times[k])}," + ",".join(cells))
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    overrides = ["dataset=sir_inverse", "method=shooting", f"observations={path}", "method.starts=3", "method.steps=50"]
    made = job(tmp_path, *overrides, "trainer=cpu", "dataset.unknown.tau1=3.0", "dataset.unknown.tau2=1.0")
    metrics = run(made)
    assert abs(metrics["test/tau1"] - 4) < 1e-3 and abs(metrics["test/tau2"] - 2) < 1e-3
    assert "test/error" not in metrics  # no truth is known
    assert metrics["test/failed"] == 0 and json.loads((made.folder / "verdict.json").read_text())["verdict"] == "ok"
    assert (made.folder / "solution.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("t,S,I\n1,2,3\n", "needs t and S, I, R"),
        ("t,S,I,R\n", "has no rows"),
        ("t,S,I,R\n1,2,x,3\n", "line 2: I = 'x' is no number"),
        ("t,S,I,R\n,2,3,3\n", "line 2: the time is missing"),
        ("t,S,I,R\n99,2,3,3\n", "the interval is 0 to 10"),
        ("t,S,I,R\n1,,,3\n", "1 observed values for 2 unknowns"),
    ],
)
def test_a_bad_csv_file_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_text(content)
    data = DelayData(tmp_path, job(tmp_path, "dataset=sir_inverse").config["dataset"], str(path))
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        data.setup()
    assert "\n" not in str(caught.value)


def test_the_papers_points(tmp_path: Path, data_root: Path | None) -> None:
    config = job(tmp_path, "dataset=linear_inverse", "tau=1.0").config
    with pytest.raises(DataError, match=re.escape("linear_points_tau_1.0.csv not found")):
        DelayData(tmp_path, config["dataset"], "dde23").setup()
    if data_root is None:
        pytest.skip("needs the paper's points")
    data = DelayData(data_root, config["dataset"], "dde23")
    data.setup()
    assert data.observed is not None and data.observed.times.tolist() == [2, 4, 6, 8, 10]
    assert float((data.observed.values[0] - data.truth.exact(data.observed.times)).abs().max()) < 4e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=linear", "tau=-1.0"], "tau = -1 must be above 0"),
        (["dataset=linear", "tau=11.0"], "at most the interval's length"),
        (["dataset=linear", "method=shooting"], "this problem has none"),
        (["dataset=linear_inverse", "method=steps"], "cannot estimate unknowns"),
        (["dataset=state_dep", "method=spectral"], "continuous at the start"),
        (["dataset=neutral", "method=ddeint"], "without delayed slopes"),
        (["noise=-1"], "must not be negative"),
        (["noise_kind=loud"], "choose paper or independent"),
        (["dataset.unknown.tau=-1"], "from 0 to the interval's length"),
        (["+dataset.unknown.sigma=1"], "sigma is no delay and no parameter"),
        (["method.weights=equal"], "choose coupled, detached, uniform, fixed"),
        (["points=1"], "at least 2 points"),
        (["lr=0"], "must be positive"),
        (["observed_points=0"], "must be at least 1"),
        (["+method.speed=3"], "has no option speed"),
    ],
)
def test_a_bad_key_is_one_line(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        made = job(tmp_path, *overrides)
        _, data = construct(made.config)
        data.setup("fit")
    assert "\n" not in str(caught.value)


def test_a_run_whose_delay_leaves_the_window_reports_a_failure_and_no_error(tmp_path: Path, monkeypatch: Any) -> None:
    from decathlon.tasks.ndde.solvers import Pinn

    monkeypatch.setattr(Pinn, "values", lambda self, raw: torch.full_like(raw, -0.3) if len(raw) else raw)
    metrics = run(job(tmp_path, *SMALL, "adam_steps=1", "bfgs_steps=0"))
    assert metrics["test/failed"] == 1 and metrics["test/error"] is None and metrics["test/rel_l2"] is None
    assert metrics["test/tau"] == pytest.approx(-0.3)


def test_the_documented_problem_of_ones_own(tmp_path: Path, monkeypatch: Any) -> None:
    page = (ROOT / "docs" / "ndde.md").read_text()
    (code,) = re.findall(r"```python\n(# fishery\.py.*?)```", page, flags=re.S)
    (config,) = re.findall(r"```yaml\n(# datasets/ndde/fishery\.yaml.*?)```", page, flags=re.S)
    (tmp_path / "fishery.py").write_text(code)
    folder = tmp_path / "configs" / "datasets" / "ndde"
    folder.mkdir(parents=True)
    (folder / "fishery.yaml").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DECATHLON_CONFIGS", str(tmp_path / "configs"))
    metrics = run(job(tmp_path, "dataset=fishery", "method=shooting", "method.starts=2", "trainer=cpu"))
    assert metrics["test/failed"] == 0 and metrics["test/error"] < 1e-4


def test_bounds_and_transforms() -> None:
    for unknown in (Unknown(0.5, transform="softplus"), Unknown(0.5, 0.0, 2.0, "bounded"), Unknown(0.5)):
        value = unknown.value(torch.tensor(unknown.raw(), dtype=torch.float64))
        assert float(value) == pytest.approx(0.5)
    low = Unknown(0.5, 0.25, 2.0, "bounded").value(torch.tensor(-50.0, dtype=torch.float64))
    assert 0.25 <= float(low) < 0.26
    for bad in ({"start": math.nan}, {"start": 1.0, "transform": "odd"}, {"start": 3.0, "low": 0.0, "high": 2.0}):
        with pytest.raises(ValueError):
            Unknown(**bad)  # type: ignore[arg-type]
