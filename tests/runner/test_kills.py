"""Twenty kills at random moments: no job is lost or done twice, and the records are those of an undisturbed sweep."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import environment

SWEEP = ["-m", "task=toy", "method=linear,fixed", "seed=0,1,2", "epochs=12", "checkpoint.every_n_steps=3"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
JOBLIB_KILLS, COMPETING_KILLS, RAY_KILLS = 8, 7, 5


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The sweep, with its results in ``folder``, in a group of processes of its own."""
    with open(folder.with_suffix(".log"), "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "decathlon.run", *SWEEP, f"results_dir={folder}", *arguments],
            cwd=folder.parent, env=environment(), stdout=log, stderr=log, text=True, start_new_session=True,
        )  # fmt: skip


def kill(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Watch:
    """Looks at the records of a results folder again and again: a job that is done twice has its record replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stamps: dict[str, set[tuple[int, int]]] = {}

    def look(self) -> None:
        for path in self.folder.glob("*/*/*/*/metrics.json"):
            stamp = path.stat()
            self.stamps.setdefault(path.parent.name, set()).add((stamp.st_ino, stamp.st_mtime_ns))

    def ended(self, processes: Sequence["subprocess.Popen[str]"], seconds: float) -> bool:
        """Whether all processes end by themselves within so many seconds."""
        end = time.monotonic() + seconds
        while any(process.poll() is None for process in processes):
            if time.monotonic() > end:
                return False
            self.look()
            time.sleep(0.02)
        return True

    def check(self, reference: dict[str, dict]) -> None:
        self.look()
        log = self.folder.with_suffix(".log").read_text()
        assert self.stamps.keys() == reference.keys(), log
        assert {job: len(stamps) for job, stamps in self.stamps.items()} == dict.fromkeys(reference, 1), log
        assert metrics_of(self.folder) == reference
        assert not list(self.folder.rglob("failure.json"))


def metrics_of(folder: Path) -> dict[str, dict]:
    """What finished jobs have measured, by identity."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/*/*/*/metrics.json")]
    return {record["id"]: record["metrics"] for record in found}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], float]:
    """The metrics of the whole sweep, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "results"
    begin = time.monotonic()
    assert start(folder).wait(timeout=3000) == 0, folder.with_suffix(".log").read_text()
    found = metrics_of(folder)
    assert len(found) == 6
    return found, time.monotonic() - begin


@pytest.mark.slow
def test_a_parallel_sweep_is_killed(tmp_path: Path, undisturbed: tuple[dict[str, dict], float]) -> None:
    reference, whole = undisturbed
    moments, kills, trial = random.Random(19), 0, 0
    while kills < JOBLIB_KILLS:
        watch, trial = Watch(tmp_path / f"results{trial}"), trial + 1
        process = start(watch.folder, *JOBLIB)
        while kills < JOBLIB_KILLS and not watch.ended([process], moments.uniform(0.2, 1.0) * whole):
            kill(process)
            kills += 1
            process = start(watch.folder, *JOBLIB)
        assert watch.ended([process], 3000) and process.returncode == 0
        watch.check(reference)


@pytest.mark.slow
def test_one_of_two_sweeps_on_one_folder_is_killed(tmp_path: Path, undisturbed: tuple[dict[str, dict], float]) -> None:
    """One of them in parallel processes, the other one job after another: they share the work."""
    reference, whole = undisturbed
    moments, kills, trial = random.Random(20), 0, 0
    while kills < COMPETING_KILLS:
        watch, trial = Watch(tmp_path / f"results{trial}"), trial + 1
        launchers: list[list[str]] = [JOBLIB, []]
        both = [start(watch.folder, *launcher) for launcher in launchers]
        while kills < COMPETING_KILLS and not watch.ended(both, moments.uniform(0.2, 0.8) * whole):
            victim = moments.choice([number for number in (0, 1) if both[number].poll() is None])
            kill(both[victim])
            kills += 1
            both[victim] = start(watch.folder, *launchers[victim])
        assert watch.ended(both, 3000) and [process.returncode for process in both] == [0, 0]
        watch.check(reference)


@pytest.mark.slow
def test_a_node_of_a_ray_cluster_is_killed(
    tmp_path: Path, undisturbed: tuple[dict[str, dict], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster of two nodes on this machine; one of them dies in the middle, and a new one comes."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    reference, whole = undisturbed
    monkeypatch.chdir(tmp_path)
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        ray = ["hydra/launcher=ray_cluster", f"hydra.launcher.ray.init.address={cluster.address}"]
        moments, kills, trial = random.Random(21), 0, 0
        while kills < RAY_KILLS:
            watch, trial = Watch(tmp_path / f"results{trial}"), trial + 1
            process = start(watch.folder, *ray)
            while kills < RAY_KILLS and not watch.ended([process], moments.uniform(0.3, 1.0) * whole):
                cluster.remove_node(second, allow_graceful=False)
                kills += 1
                second = cluster.add_node(num_cpus=1)
            watch.ended([process], 3000)
            # Ray itself starts the jobs of a dead node anew, three times each; what is left then the same command does.
            process = start(watch.folder, *ray)
            assert watch.ended([process], 3000) and process.returncode == 0, watch.folder.with_suffix(
                ".log"
            ).read_text()
            watch.check(reference)
    finally:
        cluster.shutdown()
