"""Sweeps: what is left to do, kills at random moments, failures, several at once, launchers, tables from their jobs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decathlon import locks
from decathlon.runner import planning
from decathlon.runner import records as records_of
from decathlon.runner.compose import compose_config
from decathlon.runner.job import Job
from decathlon.runner.sweep import Notes
from tests.conftest import Runner, environment
from tests.runner.conftest import Door

SWEEP = ["-m", "task=toy", "method=linear,fixed", "seed=0,1,2", "epochs=12"]


def records(folder: Path) -> dict[str, dict]:
    """Finished records by job folder."""
    paths = folder.glob("*/*/*/*/metrics.json")
    return {str(path.parent.relative_to(folder)): json.loads(path.read_text()) for path in paths}


def left_of_sweeps(folder: Path) -> list[Path]:
    return list(folder.rglob(".sweeps/**"))


def pretend_finished(*overrides: str) -> Job:
    """The job with a record, without having run it."""
    job = Job.of(compose_config(list(overrides)))
    job.folder.mkdir(parents=True, exist_ok=True)
    job.finish({"metrics": {"test/accuracy": 0.5}, "wall_time_s": 1.0, "config": job.config})
    return job


@pytest.mark.parametrize(
    "launcher",
    [
        "joblib",
        pytest.param("ray", marks=pytest.mark.slow),
        pytest.param("submitit_local", marks=pytest.mark.slow),
        pytest.param("basic", marks=pytest.mark.slow),
    ],
)
def test_a_sweep_killed_at_random_moments_ends_as_the_whole_one(tmp_path: Path, run: Runner, launcher: str) -> None:
    plugin = {
        "joblib": "hydra_joblib_launcher",
        "ray": "hydra_ray_launcher",
        "submitit_local": "hydra_submitit_launcher",
    }
    if launcher in plugin:
        pytest.importorskip(f"hydra_plugins.{plugin[launcher]}")
    extra = [f"hydra/launcher={launcher}"] + (["hydra.launcher.n_jobs=2"] if launcher == "joblib" else [])
    begin = time.perf_counter()
    assert run(*SWEEP, "results_dir=whole", *extra).returncode == 0
    whole_seconds = time.perf_counter() - begin
    reference = records(tmp_path / "whole")
    assert len(reference) == 6
    moments = random.Random(7)
    kept: dict[str, dict] = {}
    for number in range(2):
        command = [sys.executable, "-m", "decathlon.run", *SWEEP, "results_dir=killed", *extra]
        command += [f"checkpoint.every_n_steps={number + 2}"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=moments.uniform(0.4, 0.9) * whole_seconds)
        except subprocess.TimeoutExpired:
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
    if launcher != "submitit_local":  # whose logs stay
        assert not left_of_sweeps(tmp_path), "killed sweeps leave notes, and the next one clears them away"


def test_a_sweep_goes_on_after_a_failed_job_and_exits_non_zero(run_here: Door, here: Path) -> None:
    done = run_here("-m", "task=toy", "method=crash,linear", "lr=0.01,7", "epochs=1")
    assert done.status == 1
    assert "sweep: 3 failed, 1 finished" in done.stdout
    assert "lr must be in (0, 1), got 7" in done.stderr
    assert "job 1 of 4" in done.stdout and "job 4 of 4" not in done.stdout, "a value that is wrong starts nothing"
    assert len(records(here / "results")) == 1
    again = run_here("-m", "task=toy", "method=crash,linear", "method.at=1000", "lr=0.01")
    assert again.status != 0, "linear has no option `at`"
    assert not left_of_sweeps(here)


def test_a_finished_sweep_composes_each_group_once_and_needs_no_torch(run: Runner, here: Path) -> None:
    for seed in range(30):
        pretend_finished("task=toy", f"seed={seed}", "method=linear")
    code = (
        "import sys; from decathlon import run; "
        "run.main(['-m', 'task=toy', 'method=linear', 'seed=range(30)']); "
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "sweep: 30 skipped\n", done.stderr
    assert not left_of_sweeps(here)


def test_jobs_are_planned_from_templates(run_here: Door, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    template = planning._Template.__init__
    monkeypatch.setattr(planning._Template, "__init__", lambda self, *args: (made.append(1), template(self, *args))[1])
    for seed in range(3):
        for method in ("linear", "fixed"):
            pretend_finished("task=toy", f"seed={seed}", f"method={method}", "lr=0.1")
    done = run_here("-m", "task=toy", "method=linear,fixed", "seed=0,1,2", "lr=0.1")
    assert done.status == 0 and done.stdout == "sweep: 6 skipped\n" and len(made) == 2


def test_folders_are_listed_once_and_not_for_each_job(
    run_here: Door, decathlon_here: Door, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(8):
        for method in ("linear", "fixed"):
            pretend_finished("task=toy", f"seed={seed}", f"method={method}", "lr=0.1")
    listed: list[str] = []
    entries = records_of._entries
    monkeypatch.setattr(records_of, "_entries", lambda path: (listed.append(path), entries(path))[1])
    sweep = ["task=toy", "method=linear,fixed", "seed=range(8)", "lr=0.1"]
    assert run_here("-m", *sweep).stdout == "sweep: 16 skipped\n"
    methods = [str(here / "results" / "toy" / "points" / method) for method in ("linear", "fixed")]
    assert listed == methods
    listed.clear()
    assert "16 jobs: 16 finished" in decathlon_here("plan", *sweep).stdout
    assert listed == methods
    listed.clear()
    assert "9 of 9 jobs" not in decathlon_here("table", "toy/small").stdout
    assert set(listed) == set(methods) and len(listed) == len(methods)


def test_how_far_a_sweep_is_takes_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(tmp_path)
    notes.plan(5, 1, 0.0)
    (tmp_path / ".7.finished.abcd1234.part.json").touch()  # one that is being written
    notes.leave(1, {"job": "seed=1", "status": "locked"})  # its node died, and it was started anew
    for number, status in enumerate(["finished", "failed", "locked", "finished"]):
        notes.leave(number, {"job": f"seed={number}", "status": status})
    assert [outcome["status"] for outcome in notes.outcomes().values()] == ["finished", "failed", "locked", "finished"]
    assert list(notes.outcomes()) == [0, 1, 2, 3]
    monkeypatch.setattr(Path, "read_text", lambda *_: pytest.fail("reads what all jobs before have left"))
    assert notes.count("finished", "failed") == 3


def test_leftovers_in_a_pinned_folder_are_not_counted(run_here: Door, here: Path) -> None:
    old = here / "sweep" / ".sweep-0123456789ab"
    old.mkdir(parents=True)
    (old / "0.json").write_text('{"job": "old", "status": "failed", "error": "old"}')
    (old / "lock").touch()
    pretend_finished("task=toy")
    done = run_here("-m", "task=toy", "seed=0", "hydra.sweep.dir=sweep")
    assert done.status == 0 and done.stdout == "sweep: 1 skipped\n"
    assert not (here / "sweep").exists()


def test_a_job_that_another_process_has_is_passed_over(run_here: Door, here: Path) -> None:
    """Job 1 of 3 is locked until job 2 has finished; then its holder finishes it."""
    held = Job.of(compose_config(["task=toy", "seed=0", "epochs=1"]))
    later = Job.of(compose_config(["task=toy", "seed=2", "epochs=1"]))
    held.folder.mkdir(parents=True)
    code = (
        "import sys, time, pathlib; from decathlon import locks\n"
        "with locks.locked(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.05)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(held.folder / "lock"), str(later.record_path)],
        stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    done = run_here("-m", "task=toy", "seed=0,1,2", "epochs=1")
    holder.wait(timeout=60)
    assert done.status == 0 and "sweep: 3 finished" in done.stdout, done.stdout + done.stderr
    assert "1 of the jobs are being run by another process" in done.stdout
    assert held.record() is not None and not locks.is_locked(held.folder / "lock")


def test_two_sweeps_at_once_compute_each_job_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "decathlon.run", "-m", "task=toy", "seed=0,1,2", "epochs=10"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    texts = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("finished in") for text in texts) == 3
    assert len(records(tmp_path / "results")) == 3


def test_an_interrupted_sweep_says_how_far_it_is(run_here: Door, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from decathlon.runner import execute

    pretend_finished("task=toy", "seed=0", "epochs=1")
    whole = execute.execute

    def interrupted(config: dict, folder: Path, built: object) -> dict:
        if config["seed"] == 2:
            raise KeyboardInterrupt
        return whole(config, folder, built)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "execute", interrupted)
    done = run_here("-m", "task=toy", "seed=0,1,2,3", "epochs=1")
    assert done.status == 130
    assert "interrupted, 2 of 4 jobs are done; the same command goes on" in done.stderr
    assert "job 3 of 4, about " in done.stdout and " left" in done.stdout
    assert not left_of_sweeps(here)


def test_a_full_disk_in_a_sweep_is_one_line_each(run_here: Door, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from decathlon.runner import execute

    def full(*arguments: object) -> dict:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.ckpt")

    monkeypatch.setattr(execute, "execute", full)
    done = run_here("-m", "task=toy", "seed=0,1", "epochs=1")
    assert done.status == 1 and "sweep: 2 failed" in done.stdout
    assert done.stderr.count("error: No space left on device: last.ckpt") == 2
    assert len(done.stderr.splitlines()) == 4, "each once when it happens, each once in the summary"


def test_the_table_reads_the_jobs_of_its_sweep(run_here: Door, decathlon_here: Door) -> None:
    empty = decathlon_here("table", "toy/small")
    assert empty.status == 0 and "0 of 9 jobs finished" in empty.stdout and "undecided" in empty.stdout
    assert run_here("-m", "experiment=toy/small", "seed=0,1").status == 0
    partly = json.loads(decathlon_here("table", "toy/small", "--format", "json").stdout)
    cell = next(c for c in partly["cells"] if c["method"] == "linear" and c["lr"] == "0.1")
    assert cell["n"] == 2 and cell["expected"] == 3 and cell["paper"] == 90.0
    assert cell["difference"] == pytest.approx(cell["mean"] - 90.0)
    assert run_here("-m", "experiment=toy/small").status == 0
    whole = json.loads(decathlon_here("table", "toy/small", "--format", "json").stdout)
    assert whole["finished"] == whole["jobs"] == 9, "lr cannot change `fixed`, so its jobs are shared"
    assert [claim["verdict"] for claim in whole["claims"]] == ["holds", "fails"]
    for form in ("terminal", "md", "latex", "csv"):
        done = decathlon_here("table", "toy/small", "--format", form)
        assert done.status == 0 and "linear" in done.stdout
    wrong = decathlon_here("table", "toy/none")
    assert wrong.status == 2 and "toy/none is no table; choose" in wrong.stderr


def test_list_names_everything(decathlon_here: Door) -> None:
    done = decathlon_here("list")
    assert done.status == 0
    assert "toy" in done.stdout and "points" in done.stdout and "toy/small" in done.stdout
    one = decathlon_here("list", "nothing")
    assert one.status == 2 and "nothing is no task" in one.stderr


def test_data_prepares_a_dataset_or_says_why_not(decathlon_here: Door) -> None:
    assert decathlon_here("data", "points", "task=toy").status == 0
    broken = decathlon_here("data", "broken", "task=toy")
    assert broken.status == 2 and "toy.csv is corrupt" in broken.stderr
    unknown = decathlon_here("data", "nonesuch")
    assert unknown.status == 2 and "nonesuch is no dataset; choose" in unknown.stderr
