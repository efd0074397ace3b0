"""``run`` as a user meets it: one job, its record, skipping, resuming, bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["task=zzz"], "task=zzz is no task; choose"),
        (["task=toy", "dataset=hiv"], "dataset=hiv is no dataset of task=toy; choose broken, points"),
        (["task=toy", "dataset=nothing"], "dataset=nothing is no dataset of task=toy; choose broken, points"),
        (["task=toy", "method=rome"], "method=rome is no method of task=toy; choose crash, fixed, linear"),
        (["task=toy", "widht=3"], "widht is no key of this run of task=toy; did you mean width?"),
        (["task=toy", "method=crash", "at=5"], "at is no key of this run of task=toy; did you mean method.at?"),
        (["task=toy", "lr=3"], "lr must be in (0, 1), got 3"),
        (["task=toy", "lr=abc"], "lr=abc is not a number (default 0.01)"),
        (["task=toy", "epochs=two"], "epochs=two is not a whole number"),
        (["task=toy", "seed=-1"], "seed=-1 is not a whole number from 0 to 4294967295"),
        (["task=toy", "epochs=-1"], "loop.max_epochs=-1 without loop.max_steps would train for ever"),
        (["task=toy", "threads=abc"], "threads=abc is not a whole number from 1 on"),
        (["task=toy", "trainer.devices=abc"], "trainer.devices=abc is neither a number of devices"),
        (["task=toy", "+trainer.limit_train_batches=1"], "trainer.limit_train_batches does not say on what machine"),
        (["task=toy", "lr=0.1,0.2"], "lr=0.1,0.2 has several values: use run -m for a sweep"),
        (["task=toy", "debug=true"], "debug is set with a plus sign: +debug=true"),
        (["task=toy", "trainer=tpu"], "trainer=tpu is no trainer; choose"),
        (["experiment=toy/big"], "experiment=toy/big is no experiment; choose toy/small"),
        (["task=toy", "hydra/launcher=nonesuch"], "hydra/launcher=nonesuch is no hydra/launcher"),
        pytest.param(
            ["task=toy", "trainer=gpu"],
            "this trainer needs a GPU, and torch sees none here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["task=toy", "results_dir=/dev/null/x"], "results_dir=/dev/null/x cannot be written"),
    ],
)
def test_a_users_mistake_gets_one_line_and_leaves_nothing(
    run: Runner, tmp_path: Path, arguments: list[str], line: str
) -> None:
    done = run(*arguments)
    assert done.returncode != 0
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


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


def test_help_comes_without_torch(run: Runner) -> None:
    start = time.perf_counter()
    done = run("--help")
    assert done.returncode == 0 and "experiment/toy" in done.stdout
    assert time.perf_counter() - start < 20  # not a measurement; a torch import under load would show
    code = "import sys, decathlon.run; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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
