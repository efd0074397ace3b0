"""Shared by all tests: the toy task's configs, a folder per test, ways to run the command-line tools."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
TOY = Path(__file__).parent / "toy"
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: small nets lose by more, two processes most of all
os.environ["MPLBACKEND"] = "agg"
os.environ["DECATHLON_CONFIGS"] = str(TOY / "configs")
sys.path.insert(0, str(TOY))
# Subprocesses know the toy task and the helpers of the tests too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), str(TOY), os.environ.get("PYTHONPATH")]))

Runner = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def data_root() -> Path | None:
    """The folder of raw data files, or None: tests that need it skip."""
    path = os.environ.get("DECATHLON_TEST_DATA")
    return Path(path) if path else None


@pytest.fixture(scope="session")
def embedded_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data folder for the session and all its processes, so that embedded datasets are built once."""
    kept = os.environ.get("DECATHLON_TEST_CACHE")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    return Path(kept) if kept else shared / "embedded"


def environment(**extra: str) -> dict[str, str]:
    """The environment of a subprocess that knows the toy task."""
    return {**os.environ, "COLUMNS": "160", **extra}


def script(path: str) -> ModuleType:
    """A file of ``scripts/`` as a module."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / "scripts" / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """Call ``run`` as a user does, in an empty folder."""

    def call(*arguments: str, **env: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "decathlon.run", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(**env), capture_output=True, text=True, timeout=300
        )

    return call


@pytest.fixture
def decathlon(tmp_path: Path) -> Runner:
    """Call ``decathlon`` as a user does."""

    def call(*arguments: str, **env: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "decathlon.cli", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(**env), capture_output=True, text=True, timeout=300
        )

    return call


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
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

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
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    captured = capfd.readouterr()
    return Said(status, captured.out, captured.err)
