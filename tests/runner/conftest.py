"""For the tests of the runner: the two doors called in this process."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig


@dataclass
class Said:
    """How a command ended and what it said."""

    status: int
    stdout: str
    stderr: str


Door = Callable[..., Said]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that commands run in; what they leave in the process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run"])
    environment = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(environment)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture
def run_here(here: Path, capfd: pytest.CaptureFixture[str]) -> Door:
    """``run`` as a user calls it, in this process and in the folder ``here``."""
    from decathlon import run

    def call(*arguments: str) -> Said:
        return _called(lambda: run.main(arguments), capfd)

    return call


@pytest.fixture
def decathlon_here(here: Path, capfd: pytest.CaptureFixture[str]) -> Door:
    """``decathlon`` likewise."""
    from decathlon import cli

    def call(*arguments: str) -> Said:
        return _called(lambda: cli.main(arguments), capfd)

    return call


def _called(door: Callable[[], None], capfd: pytest.CaptureFixture[str]) -> Said:
    capfd.readouterr()
    status = 0
    try:
        door()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    GlobalHydra.instance().clear()
    captured = capfd.readouterr()
    return Said(status, captured.out, captured.err)
