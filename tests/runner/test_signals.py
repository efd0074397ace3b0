"""A signal ends a job after the step at hand; the next attempt goes on there and ends as the whole one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import environment

# Sends its own process a signal in the middle of an epoch; `called` stands for a handler that was there before.
CODE = """
import os, signal, sys
from pathlib import Path
number, step = int(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == 'called':
    signal.signal(number, lambda *_: (Path('called').touch(), sys.exit(77)))
from decathlon.runner import execute
from lightning.pytorch import Callback
class Sender(Callback):
    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == step:
            os.kill(os.getpid(), number)
make = execute.make_trainer
def with_sender(*args):
    trainer = make(*args)
    trainer.callbacks.insert(0, Sender())
    return trainer
execute.make_trainer = with_sender
sys.argv = ['run', 'task=toy', 'trainer=cpu', *sys.argv[4:]]
from decathlon.run import main
main()
"""


def attempt(folder: Path, number: int, step: int, kind: str = "plain", *more: str) -> int:
    """The exit code of a job that is sent a signal at a step."""
    command = [sys.executable, "-c", CODE, str(int(number)), str(step), kind, *more]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240)
    return done.returncode


def record(folder: Path) -> dict:
    return json.loads(next(folder.glob("results/toy/*/*/*/metrics.json")).read_text())


def test_the_next_attempt_goes_on_at_the_very_step(tmp_path: Path) -> None:
    number = signal.SIGUSR1
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    whole.mkdir(), ended.mkdir()
    assert attempt(whole, number, -1) == 0
    assert attempt(ended, number, 5) == -number
    assert not list(ended.glob("results/toy/*/*/*/metrics.json"))
    assert attempt(ended, number, -1) == 0
    assert record(ended)["resumed_from_step"] == 6, "the step at hand was ended first"
    assert record(ended)["metrics"] == record(whole)["metrics"]


def test_who_had_handled_the_signal_hears_of_it_last(tmp_path: Path) -> None:
    assert attempt(tmp_path, signal.SIGUSR2, 5, "called") == 130, "the handler's exit is an interruption"
    assert (tmp_path / "called").exists()
    assert list(tmp_path.glob("results/toy/*/*/*/checkpoints/last.ckpt"))


def test_a_job_of_one_process_does_not_take_the_clusters_variables_for_its_own(tmp_path: Path) -> None:
    slurm = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "1"}
    command = [sys.executable, "-m", "decathlon.run", "task=toy", "trainer=cpu", "epochs=1"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment(), **slurm, "SLURM_JOB_NAME": "sweep"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert record(tmp_path)["metrics"]["test/world"] == 1
    assert "SLURM_NTASKS" not in os.environ
