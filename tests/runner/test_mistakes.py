"""What a user may get wrong gets one true line, and leaves nothing half-written."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runner.conftest import Door


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
        (["task=null"], "task is null, and every run has one; choose"),
        (["task="], "task is empty, and every run has one; choose"),
        (["task=toy", "method=null"], "method is null, and every run has one"),
        (["task=toy", "dataset="], "dataset is empty, and every run has one"),
        (["task=toy", "seed=null"], "seed is null, and every run has one"),
        (["task=toy", "seed=1.5"], "seed=1.5 is not a whole number"),
        (["task=toy", "seed=true"], "seed=True is not a whole number"),
        (["task=toy", "results_dir=null"], "results_dir is null"),
        (["task=toy", "results_dir="], "results_dir is empty"),
        (["task=toy", "data_dir=' '"], "data_dir is empty; it names a folder"),
        (["task=toy", "trainer=null"], "trainer is null"),
        (["task=toy", "force=maybe"], "force=maybe is not true or false"),
        (["task=toy", "lr="], "lr= is not a number"),
        (["task=toy", "method.name=../../x"], "method.name=../../x cannot be the name of a folder"),
        (["task=toy", "dataset.name=null"], "dataset.name=null cannot be the name of a folder"),
        (["task=toy", "method.name=.."], "method.name=.. cannot be the name of a folder"),
        (["task=toy", "results_dir=a~b"], "results_dir=a~b cannot be read: ~ has a meaning of its own here"),
        (["task=toy", "results_dir=#1"], "results_dir=#1 cannot be read: # has a meaning of its own here"),
        (["task=toy", "lr"], "lr is no key=value"),
        (["task=toy", "checkpoint.every_n_steps=0"], "checkpoint.every_n_steps=0 is not a whole number from 1 on"),
        (["-m", "task=toy", "hydra/sweeper=optuna"], "hydra/sweeper=optuna is not installed: pip install hydra-opt"),
        (["-m", "task=toy", "seed=0,1", "widht=3"], "widht is no key of this run of task=toy; did you mean width?"),
        (["task=toy", "results_dir=/dev/null/x"], "results_dir=/dev/null/x cannot be written"),
    ],
)
def test_a_users_mistake_gets_one_line_and_leaves_nothing(
    run_here: Door, here: Path, arguments: list[str], line: str
) -> None:
    done = run_here(*arguments)
    assert done.status != 0
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(here.iterdir())


def test_a_sweep_that_cannot_write_says_so(run_here: Door, here: Path) -> None:
    done = run_here("-m", "task=toy", "seed=0,1", "results_dir=/dev/null/x")
    assert done.status != 0 and done.stderr.count("\n") == 1 and "Not a directory: /dev/null/x" in done.stderr


def test_broken_config_folders_are_named(run_here: Door, decathlon_here: Door, here: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DECATHLON_CONFIGS", str(here / "none"))
    for door in (run_here, decathlon_here):
        done = door("list") if door is decathlon_here else door("task=toy")
        assert done.status == 2
        assert done.stderr == f"error: DECATHLON_CONFIGS names {here}/none, and there is no such folder\n"
    (here / "task").mkdir()
    (here / "task" / "mine.yaml").write_text("task: {name: mine\nlr: [\n")
    monkeypatch.setenv("DECATHLON_CONFIGS", str(here))
    for door, words in ((decathlon_here, ["list"]), (run_here, ["task=mine"])):
        done = door(*words)
        assert done.status == 2 and len(done.stderr.splitlines()) == 1
        assert f"{here}/task/mine.yaml" in done.stderr and "is no YAML" in done.stderr


def test_the_orders_of_a_tables_arguments(decathlon_here: Door) -> None:
    csv = decathlon_here("table", "toy/small", "--format", "csv", "results_dir=x")
    assert csv.status == 0 and csv.stdout.startswith("method,")
    assert decathlon_here("table", "--format", "csv", "toy/small", "seed=0", "results_dir=x").status == 0
    assert decathlon_here("table", "toy/small", "seed=0", "--form", "csv", "--nonsense").status == 2


def test_version_and_help_are_ours(run_here: Door) -> None:
    assert run_here("--version").stdout.startswith("decathlon ")
    text = run_here("--help").stdout
    assert 20 <= len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 100
    assert "  toy      A toy" in text and "hydra" not in text.replace("hydra/launcher", "")


def test_hydras_own_flags_take_their_values(run_here: Door) -> None:
    done = run_here("task=toy", "--cfg", "hydra", "-p", "hydra.launcher")
    assert done.status == 0 and "BasicLauncher" in done.stdout, done.stderr


def test_an_ascii_terminal_gets_other_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    from decathlon.runner.console import speak_any_alphabet

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    speak_any_alphabet()
    stream.write("1 ± 2 — ü")
    stream.flush()
    assert stream.buffer.getvalue() == b"1 +/- 2 - ?"  # type: ignore[attr-defined]
