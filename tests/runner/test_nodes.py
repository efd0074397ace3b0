"""One job on two machines, played by two commands on one: they meet in the results folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decathlon import files, locks
from decathlon.errors import ConfigError
from decathlon.runner import nodes
from tests.conftest import environment

TWO = ["task=toy", "trainer=cpu", "trainer.num_nodes=2"]


def start(folder: Path, number: int, *arguments: str) -> "subprocess.Popen[str]":
    """The command on machine ``number``."""
    return subprocess.Popen(
        [sys.executable, "-m", "decathlon.run", *arguments, *TWO], cwd=folder, text=True, start_new_session=True,
        env={**environment(), "DECATHLON_NODE": str(number), "DECATHLON_HOST": "127.0.0.1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def records(folder: Path) -> dict[int, dict]:
    """Records by seed."""
    found = [json.loads(path.read_text()) for path in folder.glob("results/toy/*/*/*/metrics.json")]
    return {record["seed"]: record for record in found}


@pytest.mark.slow
def test_two_machines_run_a_sweep_of_jobs_together(tmp_path: Path) -> None:
    both = [start(tmp_path, number, "-m", "seed=0,1", "epochs=2") for number in (1, 0)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    found = records(tmp_path)
    assert sorted(found) == [0, 1]
    assert all(record["metrics"]["test/world"] == 2 and record["devices"] == 2 for record in found.values())
    assert "on each of 2 machines" in said[1][0]
    assert not list(tmp_path.rglob("rendezvous.json"))
    alone = tmp_path / "alone"
    alone.mkdir()
    one = subprocess.run(
        [sys.executable, "-m", "decathlon.run", "task=toy", "trainer=ddp_cpu", "seed=0", "epochs=2"],
        cwd=alone, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert one.returncode == 0, one.stderr
    assert records(alone)[0]["id"] == found[0]["id"], "the machines are no part of what a job is"
    assert records(alone)[0]["metrics"] == pytest.approx(found[0]["metrics"], rel=1e-5)


@pytest.mark.slow
def test_a_machine_that_dies_ends_the_job_with_one_line_and_the_next_attempt_goes_on(tmp_path: Path) -> None:
    first, second = (start(tmp_path, number, "epochs=3000") for number in (0, 1))
    end = time.monotonic() + 120
    while not list(tmp_path.glob("results/*/*/*/*/checkpoints/last.ckpt")) and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(second.pid, signal.SIGKILL)
    error = first.communicate(timeout=300)[1]
    assert first.returncode != 0 and records(tmp_path) == {}
    assert [line for line in error.splitlines() if line.startswith("error: ")], error
    config = next(tmp_path.glob("results/*/*/*/*/config.yaml"))
    assert (config.parent / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("text", ["2", "-1", "first"])
def test_a_number_that_no_machine_has(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DECATHLON_NODE", text)
    with pytest.raises(ConfigError, match="is not one of 0 to 1"):
        nodes.rank(2)
    assert nodes.rank(1) == 0, "a job of one machine is its own, on whatever machine"


@pytest.mark.parametrize("wanted", [0, -1, "two", True, 1.5])
def test_a_number_of_machines_that_there_cannot_be(wanted: object) -> None:
    if wanted == 0:
        assert nodes.count({"num_nodes": None}) == 1
    with pytest.raises(ConfigError, match="is not a number of machines"):
        nodes.count({"num_nodes": wanted})


def test_the_first_machine_does_not_come_or_means_another_job(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did not start this job within 0 s"):
        nodes.found(tmp_path, 2, 1, patience=0)
    files.write_text(tmp_path / "rendezvous.json", json.dumps({"host": "a", "port": 1, "nodes": 3, "token": "x"}))
    with pytest.raises(ConfigError, match="did not start"):
        nodes.found(tmp_path, 2, 1, patience=2.5)  # left by a dead attempt: nobody has the lock
    with locks.locked(tmp_path / "lock"), pytest.raises(ConfigError, match="num_nodes=3 on the first machine"):
        nodes.found(tmp_path, 2, 1, patience=30)


def test_a_name_that_is_not_known_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECATHLON_HOST", "no.such.host.invalid")
    with pytest.raises(ConfigError, match="DECATHLON_HOST"), nodes.announced(tmp_path, 2):
        pass
