"""Sweeps: kills at random moments, failures, launchers, tables from their jobs."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Runner, environment

SWEEP = ["-m", "task=toy", "method=linear,fixed", "seed=0,1,2", "epochs=12"]


def records(folder: Path) -> dict[str, dict]:
    """Finished records by job folder."""
    paths = folder.glob("*/*/*/*/metrics.json")
    return {str(path.parent.relative_to(folder)): json.loads(path.read_text()) for path in paths}


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_killed_at_random_moments_ends_as_the_whole_one(tmp_path: Path, run: Runner, launcher: str) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    extra = [f"hydra/launcher={launcher}"] + (["hydra.launcher.n_jobs=2"] if launcher == "joblib" else [])
    begin = time.perf_counter()
    assert run(*SWEEP, "results_dir=whole", *extra).returncode == 0
    whole_seconds = time.perf_counter() - begin
    reference = records(tmp_path / "whole")
    assert len(reference) == 6
    moments = random.Random(7)
    kept: dict[str, dict] = {}
    for _ in range(4):
        command = [sys.executable, "-m", "decathlon.run", *SWEEP, "results_dir=killed", *extra]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=moments.uniform(0.3, 1.0) * whole_seconds)
        except subprocess.TimeoutExpired:
            import os

            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        now = records(tmp_path / "killed")
        assert all(now[job] == record for job, record in kept.items()), "a finished job was computed again"
        kept = now
    done = run(*SWEEP, "results_dir=killed", *extra)
    assert done.returncode == 0, done.stdout + done.stderr
    final = records(tmp_path / "killed")
    assert all(final[job] == record for job, record in kept.items()), "a finished job was computed again"
    assert final.keys() == reference.keys()
    for job, record in reference.items():
        assert final[job]["metrics"] == record["metrics"]
    assert f"{len(kept)} skipped" in done.stdout or not kept


def test_a_sweep_goes_on_after_a_failed_job_and_exits_non_zero(run: Runner, tmp_path: Path) -> None:
    done = run("-m", "task=toy", "method=crash,linear", "lr=0.01,7")
    assert done.returncode == 1
    assert "sweep: 3 failed, 1 finished" in done.stdout
    assert "lr must be in (0, 1), got 7" in done.stderr
    assert len(records(tmp_path / "results")) == 1
    again = run("-m", "task=toy", "method=crash,linear", "method.at=1000", "lr=0.01")
    assert again.returncode != 0, "linear has no option `at`"


def test_two_sweeps_at_once_compute_each_job_once(tmp_path: Path, run: Runner) -> None:
    command = [sys.executable, "-m", "decathlon.run", "-m", "task=toy", "seed=0,1,2", "epochs=10"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    texts = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("finished in") for text in texts) == 3
    assert len(records(tmp_path / "results")) == 3


def test_the_table_reads_the_jobs_of_its_sweep(run: Runner, decathlon: Runner) -> None:
    empty = decathlon("table", "toy/small")
    assert empty.returncode == 0 and "0 of 9 jobs finished" in empty.stdout and "undecided" in empty.stdout
    assert run("-m", "experiment=toy/small", "seed=0,1").returncode == 0
    partly = json.loads(decathlon("table", "toy/small", "--format", "json").stdout)
    cell = next(c for c in partly["cells"] if c["method"] == "linear" and c["lr"] == "0.1")
    assert cell["n"] == 2 and cell["expected"] == 3 and cell["paper"] == 90.0
    assert cell["difference"] == pytest.approx(cell["mean"] - 90.0)
    assert run("-m", "experiment=toy/small").returncode == 0
    whole = json.loads(decathlon("table", "toy/small", "--format", "json").stdout)
    assert whole["finished"] == whole["jobs"] == 9, "lr cannot change `fixed`, so its jobs are shared"
    assert [claim["verdict"] for claim in whole["claims"]] == ["holds", "fails"]
    for form in ("terminal", "md", "latex", "csv"):
        done = decathlon("table", "toy/small", "--format", form)
        assert done.returncode == 0 and "linear" in done.stdout
    wrong = decathlon("table", "toy/none")
    assert wrong.returncode == 2 and "toy/none is no table; choose" in wrong.stderr


def test_list_names_everything(decathlon: Runner) -> None:
    done = decathlon("list")
    assert done.returncode == 0
    assert "toy" in done.stdout and "points" in done.stdout and "toy/small" in done.stdout
    one = decathlon("list", "nothing")
    assert one.returncode == 2 and "nothing is no task" in one.stderr


def test_data_prepares_a_dataset_or_says_why_not(decathlon: Runner) -> None:
    assert decathlon("data", "points", "task=toy").returncode == 0
    broken = decathlon("data", "broken", "task=toy")
    assert broken.returncode == 2 and "toy.csv is corrupt" in broken.stderr
    unknown = decathlon("data", "nonesuch")
    assert unknown.returncode == 2 and "nonesuch is no dataset; choose" in unknown.stderr
