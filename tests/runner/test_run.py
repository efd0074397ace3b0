"""``run`` as a user meets it: one job, its record, skipping, resuming, bad input."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from decathlon.runner.compose import compose_config
from decathlon.runner.job import Job
from tests.conftest import Runner, environment
from tests.runner.conftest import Door


def only_record(folder: Path) -> dict:
    """The one record below a folder."""
    paths = list(folder.glob("results/*/*/*/*/metrics.json"))
    assert len(paths) == 1
    return json.loads(paths[0].read_text())


def test_a_job_leaves_a_whole_record_and_is_not_run_twice(run_here: Door, here: Path) -> None:
    first = run_here("task=toy")
    assert first.status == 0, first.stderr
    record = only_record(here)
    assert record["status"] == "finished" and record["task"] == "toy" and record["seed"] == 0
    assert {"metrics", "config", "versions", "wall_time_s", "peak_memory_mib", "device", "commit"} <= set(record)
    assert "test/accuracy" in record["metrics"] and "val/loss" in record["metrics"]
    assert "metrics.json" in first.stdout
    again = run_here("task=toy")
    assert again.status == 0 and "finished before" in again.stdout
    assert only_record(here) == record
    forced = run_here("task=toy", "force=true")
    assert forced.status == 0 and "finished before" not in forced.stdout
    assert only_record(here)["metrics"] == record["metrics"], "same config and seed: the same numbers"


def test_force_always_works(run_here: Door, here: Path) -> None:
    assert run_here("task=toy", "epochs=1").status == 0
    folder = next(here.glob("results/toy/points/linear/*"))
    elsewhere = here / "elsewhere"
    (folder / "checkpoints").rename(elsewhere)
    (folder / "checkpoints").symlink_to(elsewhere)
    for spoilt in ("", '{"metrics": {', "[]", '{"status": "finished"}', "\x00"):
        (folder / "metrics.json").write_text(spoilt)
        (folder / "failure.json").write_text(spoilt)
        (folder / "fit.json").write_text(spoilt)
        assert run_here("task=toy", "epochs=1", "force=true").status == 0
        assert only_record(here)["status"] == "finished"
    assert list(elsewhere.iterdir()), "what a link points to is not removed"


@pytest.mark.parametrize("spoilt", ["", '{"metrics": {', "[]"])
def test_an_unreadable_record_is_named_and_counts_as_absent(
    run_here: Door, decathlon_here: Door, here: Path, spoilt: str
) -> None:
    job = Job.of(compose_config(["experiment=toy/small", "method=linear", "lr=0.1", "seed=0"]))
    job.folder.mkdir(parents=True)
    job.record_path.write_text(spoilt)
    table = decathlon_here("table", "toy/small")
    assert table.status == 0 and "0 of 9 jobs finished" in table.stdout
    assert table.stderr.count("metrics.json cannot be read") == 1 and "Traceback" not in table.stderr
    done = run_here("experiment=toy/small", "method=linear", "lr=0.1", "seed=0", "epochs=1", "checkpoint.monitor=null")
    assert done.status == 0
    again = run_here("experiment=toy/small", "method=linear", "lr=0.1", "seed=0")
    assert again.status == 0 and "finished in" in again.stdout
    assert job.record_path.with_name("metrics.json.broken").read_text() == spoilt


def test_signs_of_markup_in_paths_are_text(run_here: Door, here: Path) -> None:
    done = run_here("task=toy", "epochs=1", "results_dir='[red]x[/nothing]'")
    assert done.status == 0 and "[red]x[/nothing]/toy/points" in done.stdout


def test_a_job_killed_in_training_or_test_resumes_to_equal_metrics(run: Runner, run_here: Door, here: Path) -> None:
    """Really killed; every other moment is in test_resume.py."""
    assert run_here("task=toy", "results_dir=whole").status == 0
    reference = json.loads(next(here.glob("whole/*/*/*/*/metrics.json")).read_text())
    assert run("task=toy", TOY_KILL_AT_STEP="20").returncode == -9
    assert run("task=toy", TOY_KILL_IN_TEST="1").returncode == -9
    assert not list(here.glob("results/*/*/*/*/metrics.json"))
    assert run_here("task=toy").status == 0
    assert only_record(here)["metrics"] == reference["metrics"]


def test_a_broken_data_file_is_one_line_and_a_failure_record(run_here: Door, here: Path) -> None:
    done = run_here("task=toy", "dataset=broken")
    assert done.status != 0
    assert done.stderr.strip() == "error: toy.csv is corrupt: line 3 has two fields, expected three"
    failure = json.loads(next(here.glob("results/toy/broken/linear/*/failure.json")).read_text())
    assert failure["status"] == "failed" and "toy.csv is corrupt" in failure["error"]
    assert not list(here.glob("results/toy/broken/linear/*/metrics.json"))


def test_debug_limits_every_loop_and_applies_the_tasks_smoke_values(run_here: Door, here: Path) -> None:
    assert run_here("task=toy", "+debug=true").status == 0
    config = only_record(here)["config"]
    assert config["loop"] == {
        "max_epochs": 2,
        "limit_train_batches": 2,
        "limit_val_batches": 2,
        "limit_test_batches": 2,
    }
    assert config["width"] == 2


def test_help_comes_without_torch() -> None:
    code = (
        "import sys, decathlon.run; decathlon.run.main(['--help']); "
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True).returncode == 0


def test_two_processes_run_one_job_together_even_in_a_sweep(run: Runner, tmp_path: Path) -> None:
    # No strategy: several devices are joined by ddp.
    done = run("-m", "task=toy", "trainer=cpu", "trainer.devices=2", "seed=0,1", "epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("results/toy/points/linear/*/metrics.json")]
    assert [record["metrics"]["test/world"] for record in records] == [2.0, 2.0]
    assert {record["seed"] for record in records} == {0, 1}
    assert all(record["devices"] == 2 and record["peak_memory_mib"]["host"] > 0 for record in records)


def ended_by(number: int, folder: Path) -> tuple[int, str]:
    """The exit code and the errors of a job that would go on for long, and is sent a signal after its first epoch."""
    command = [sys.executable, "-m", "decathlon.run", "task=toy", "epochs=100000"]
    # A shell that starts the tests in the background has its children ignore Ctrl-C.
    listen = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listen
    )
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("results/*/*/*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    return process.returncode, error.decode().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_job_after_its_step(tmp_path: Path, number: int) -> None:
    assert ended_by(number, tmp_path)[0] == -number


def test_an_interrupted_job_says_how_to_go_on(tmp_path: Path) -> None:
    line = "error: interrupted; the same command goes on from the last checkpoint"
    assert ended_by(signal.SIGINT, tmp_path) == (130, line)


def test_a_failure_inside_a_worker_process_is_reported(run: Runner, tmp_path: Path) -> None:
    done = run("task=toy", "trainer=ddp_cpu", "method=crash", "method.at=0")
    assert done.returncode == 1
    assert "the toy crashed" in done.stderr and "torch.distributed.elastic" not in done.stderr
    assert list(tmp_path.glob("results/toy/points/crash/*/failure.json"))
