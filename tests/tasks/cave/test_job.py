"""Jobs through the runner: what a user types, what is wrong with it, what a kill leaves behind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from decathlon.errors import ConfigError, DataError, UserError
from decathlon.runner import catalog
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from decathlon.tasks.cave.simulator.sumo import sumo_home
from tests.conftest import ROOT, script
from tests.tasks.cave.test_traffic import two_lanes

QUICK = ["task=cave", "+debug=true", "trainer=cpu", "figures=false"]


def job_of(tmp_path: Path, *overrides: str) -> Job:
    cfg = compose_config([*QUICK, f"data_dir={tmp_path / 'data'}", f"results_dir={tmp_path / 'results'}", *overrides])
    return Job.of(cfg)


def run_job(tmp_path: Path, *overrides: str) -> tuple[dict[str, float], Path]:
    job = job_of(tmp_path, *overrides)
    job.folder.mkdir(parents=True, exist_ok=True)
    return execute(job.config, job.folder, construct(job.config))["metrics"], job.folder


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("_ms")}


def test_a_killed_test_goes_on_to_the_same_bits_whatever_the_batches(tmp_path: Path) -> None:
    whole, _ = run_job(tmp_path / "a", "method=cave")
    _, folder = run_job(tmp_path / "b", "method=cave", "batch_size=1")
    rows = (folder / "cases-0.jsonl").read_text().splitlines()
    assert len(rows) == 2
    (folder / "cases-0.jsonl").write_text(rows[0] + "\n" + rows[1][:40])  # died while it wrote the second
    again, _ = run_job(tmp_path / "b", "method=cave", "batch_size=1")
    assert timeless(again) == timeless(whole)
    assert len((folder / "cases-0.jsonl").read_text().splitlines()) == 2


def test_a_job_draws_its_pictures(tmp_path: Path) -> None:
    _, folder = run_job(tmp_path, "method=greedy", "figures=true", "animation=true")
    for name in ("timeline.png", "scene.png", "scene.gif"):
        assert (folder / name).stat().st_size > 5_000


def test_decisions_beside_the_optimum(tmp_path: Path) -> None:
    metrics, folder = run_job(tmp_path, "dataset=instances", "method=cave_priority", "smoke.instances=3")
    assert (
        metrics["test/gap"] >= -1e-12
        and metrics["test/proven"] == 1
        and metrics["test/bound_gap"] > metrics["test/gap"]
    )
    exact, _ = run_job(tmp_path, "dataset=instances", "method=exact", "smoke.instances=3")
    assert abs(exact["test/gap"]) < 1e-9 and exact["test/hit"] == 1
    rows = [json.loads(line) for line in (folder / "cases-0.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row["objective"] >= row["bound"] for row in rows)


def test_figures_of_many_jobs(tmp_path: Path) -> None:
    for rate in (5, 10):
        job = job_of(tmp_path, "method=greedy", f"rate={rate}")
        job.folder.mkdir(parents=True)
        metrics, _ = run_job(tmp_path, "method=greedy", f"rate={rate}")
        job.finish({"metrics": metrics, "config": job.config})
    script("analysis/cave_figures.py").main([str(tmp_path / "results"), str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"load.png", "target.png"}
    with pytest.raises(SystemExit, match="no finished simulations"):
        script("analysis/cave_figures.py").main([str(tmp_path / "out"), str(tmp_path / "out")])


def test_a_trace_of_ones_own(tmp_path: Path) -> None:
    two_lanes(tmp_path / "mine.csv", seconds=60)
    metrics, _ = run_job(
        tmp_path, "dataset=trace", f"dataset.file={tmp_path / 'mine.csv'}", "participation=1.0", "method=greedy"
    )
    assert metrics["test/tasks"] > 5 and metrics["test/reliability"] > 0.5
    with pytest.raises(DataError, match="no vehicle stays for 210 s"):
        run_job(
            tmp_path, "dataset=trace", f"dataset.file={tmp_path / 'mine.csv'}", "method=greedy", "smoke.counted=207"
        )


def test_sumo_is_run_once_and_replayed(tmp_path: Path) -> None:
    try:
        sumo_home()
    except ConfigError:
        pytest.skip("Eclipse SUMO is not installed")
    options = ["dataset=sumo", "dataset.traffic.duration=60", "dataset.traffic.settle=30", "method=greedy"]
    metrics, _ = run_job(tmp_path, *options)
    assert metrics["test/tasks"] > 5 and metrics["test/reliability"] > 0.3
    assert len(list((tmp_path / "data").glob("**/cave-sumo-*.pt"))) == 1


def test_without_sumo_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUMO_HOME", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'decathlon\[sumo\]'"):
        sumo_home()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["participation=2"], "participation=2 is a share"),
        (["target=1.0"], "target=1.0 must lie between 0 and 1"),
        (["rate=-3"], "rate=-3 must not be negative"),
        (["epoch=0.25"], "epoch=0.25 is no multiple of the tick dt=0.1"),
        (["epoch=0"], "epoch=0 must be positive"),
        (["candidates=0"], "candidates=0"),
        (["radio=wifi"], "radio=wifi is unknown; choose cv2x"),
        (["sharing=none"], "sharing=none is unknown; choose work_conserving"),
        (["settings={hazard: [0, 1]}"], "hazard="),
        (["settings={hazards: 1}"], "has no option hazards"),
        (["allocation=fair"], "allocation=fair is unknown"),
        (["allocation=srpt", "sharing=fixed"], "allocation=srpt needs sharing=work_conserving"),
        (["method=local", "local=false"], "needs local=true"),
        (["method=local", "dataset=instances"], "needs an ego vehicle"),
        (["smoke.particles=0"], "particles=0"),
        (["method.encoding=gray"], "encoding=gray is unknown"),
        (["+method.speed=3"], "method=cave has no option speed"),
        (["density=500"], "do not fit"),
        (["density=-1"], "density=-1"),
        (["smoke.scenarios=0"], "scenarios=0"),
        (["batch_size=0"], "batch_size=0"),
        (["dataset=trace"], "needs dataset.file"),
        (["dataset=instances", "smoke.tasks=0"], "tasks=0"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    job = job_of(tmp_path, *overrides)
    with pytest.raises(UserError) as caught:
        construct(job.config)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not job.folder.exists()


def test_a_trace_without_its_columns_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("time,id,x\n0,a,1\n1,a,2\n")
    with pytest.raises(DataError, match="has no column y, speed"):
        run_job(tmp_path, "dataset=trace", f"dataset.file={tmp_path / 'b.csv'}")
    with pytest.raises(DataError, match="is no file"):
        run_job(tmp_path, "dataset=trace", "dataset.file=nowhere.csv")


def test_the_page_s_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    two_lanes(tmp_path / "mine.csv", seconds=60)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "cave.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    S, K, N = 2, 3, 5
    C, w, D, O, R = torch.rand(S, K), torch.ones(S, K), torch.rand(S, K), torch.rand(S, K), torch.full((S, K), 0.9)
    F, r, lam, tau, B0 = (torch.rand(S, N) + low for low in (2, 20, 0.02, 5, 0))
    work, weight, active = torch.rand(2, 6), torch.ones(2, 6), torch.ones(2, 6, dtype=torch.bool)
    for block in blocks:
        exec(compile(block, "docs/cave.md", "exec"), dict(locals()))


def test_no_task_at_all_is_a_valid_record(tmp_path: Path) -> None:
    metrics, _ = run_job(tmp_path, "rate=0", "method=greedy")
    assert metrics["test/tasks"] == 0 and all(value == value for value in metrics.values())


@pytest.mark.parametrize("name", catalog.experiments("cave"))
def test_the_first_job_of_every_table_can_be_built(name: str, tmp_path: Path) -> None:
    swept = compose_config([f"experiment={name}"], with_hydra=True).hydra.sweeper.params
    first = [f"{key}={str(values).split(',')[0]}" for key, values in swept.items()]
    config = Job.of(compose_config([f"experiment={name}", *first, f"results_dir={tmp_path}"])).config
    module, data = construct(config)
    assert module.planner is not None and data.count > 0


def test_results_depend_on_no_global_state(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, _ = run_job(tmp_path / "a", "method=fpso_mr", "dataset=constant")
    torch.rand(17)
    second: dict[str, Any] = run_job(tmp_path / "b", "method=fpso_mr", "dataset=constant")[0]
    assert timeless(first) == timeless(second)
