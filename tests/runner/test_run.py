"""``run`` as a user meets it: one job, its record, skipping, resuming, bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import Runner, environment


def only_record(folder: Path) -> dict:
    """The one record below a folder."""
    paths = list(folder.glob("results/*/*/*/*/metrics.json"))
    assert len(paths) == 1
    return json.loads(paths[0].read_text())


def test_a_job_leaves_a_whole_record_and_is_not_run_twice(run: Runner, tmp_path: Path) -> None:
    first = run("task=toy")
    assert first.returncode == 0, first.stderr
    record = only_record(tmp_path)
    assert record["status"] == "finished" and record["task"] == "toy" and record["seed"] == 0
    assert {"metrics", "config", "versions", "wall_time_s", "peak_memory_mib", "device", "commit"} <= set(record)
    assert "test/accuracy" in record["metrics"] and "val/loss" in record["metrics"]
    assert "metrics.json" in first.stdout
    again = run("task=toy")
    assert again.returncode == 0 and "finished before" in again.stdout
    assert only_record(tmp_path) == record
    forced = run("task=toy", "force=true")
    assert forced.returncode == 0 and "finished before" not in forced.stdout
    assert only_record(tmp_path)["metrics"] == record["metrics"], "same config and seed: the same numbers"


def test_a_job_killed_in_training_or_test_resumes_to_equal_metrics(run: Runner, tmp_path: Path) -> None:
    assert run("task=toy", "results_dir=whole").returncode == 0
    reference = json.loads(next(tmp_path.glob("whole/*/*/*/*/metrics.json")).read_text())
    for number, (kill, resumed_from) in enumerate(
        [({"TOY_KILL_AT_STEP": "20"}, 16), ({"TOY_KILL_AT_STEP": "3"}, None), ({"TOY_KILL_IN_TEST": "1"}, None)]
    ):
        results = f"results_dir=killed{number}"
        assert run("task=toy", results, **kill).returncode == -9
        assert not list(tmp_path.glob(f"killed{number}/*/*/*/*/metrics.json"))
        assert run("task=toy", results).returncode == 0
        record = json.loads(next(tmp_path.glob(f"killed{number}/*/*/*/*/metrics.json")).read_text())
        assert record["metrics"] == reference["metrics"]
        assert record["resumed_from_step"] == resumed_from


def test_a_broken_data_file_is_one_line_and_a_failure_record(run: Runner, tmp_path: Path) -> None:
    done = run("task=toy", "dataset=broken")
    assert done.returncode != 0
    assert done.stderr.strip() == "error: toy.csv is corrupt: line 3 has two fields, expected three"
    failure = json.loads(next(tmp_path.glob("results/toy/broken/linear/*/failure.json")).read_text())
    assert failure["status"] == "failed" and "toy.csv is corrupt" in failure["error"]
    assert not list(tmp_path.glob("results/toy/broken/linear/*/metrics.json"))


def test_debug_limits_every_loop_and_applies_the_tasks_smoke_values(run: Runner, tmp_path: Path) -> None:
    assert run("task=toy", "+debug=true").returncode == 0
    config = only_record(tmp_path)["config"]
    assert config["loop"] == {
        "max_epochs": 2,
        "limit_train_batches": 2,
        "limit_val_batches": 2,
        "limit_test_batches": 2,
    }
    assert config["width"] == 2


def test_two_processes_run_one_job_together_even_in_a_sweep(run: Runner, tmp_path: Path) -> None:
    done = run("-m", "task=toy", "trainer=ddp_cpu", "seed=0,1", "epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("results/toy/points/linear/*/metrics.json")]
    assert [record["metrics"]["test/world"] for record in records] == [2.0, 2.0]
    assert {record["seed"] for record in records} == {0, 1}
    assert all(record["devices"] == 2 for record in records)


def test_several_devices_need_no_strategy(run: Runner, tmp_path: Path) -> None:
    done = run("task=toy", "trainer=cpu", "trainer.devices=2", "epochs=1", "+loop.log_every_n_steps=1")
    assert done.returncode == 0, done.stdout + done.stderr
    record = only_record(tmp_path)
    assert record["metrics"]["test/world"] == 2.0
    assert record["peak_memory_mib"]["host"] > 0


def long_job(folder: Path) -> subprocess.Popen:
    """A job that would go on for long, and has written its first checkpoint."""
    command = [sys.executable, "-m", "decathlon.run", "task=toy", "epochs=100000"]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(folder.glob("results/*/*/*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


def test_sigterm_ends_a_job_at_once(tmp_path: Path) -> None:
    process = long_job(tmp_path)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_an_interrupted_job_says_how_to_go_on(tmp_path: Path) -> None:
    process = long_job(tmp_path)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.decode().strip() == "error: interrupted; the same command goes on from the last checkpoint"


def test_a_failure_inside_a_worker_process_is_reported(run: Runner, tmp_path: Path) -> None:
    done = run("task=toy", "trainer=ddp_cpu", "method=crash", "method.at=0")
    assert done.returncode == 1
    assert "the toy crashed" in done.stderr
    assert list(tmp_path.glob("results/toy/points/crash/*/failure.json"))
