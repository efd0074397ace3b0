"""Locks exclude and die with their owner, by the kernel and by lease; where the kernel's do not serve, that is said."""

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from decathlon import leases, locks
from decathlon.errors import ConfigError
from decathlon.leases import Lease
from tests.conftest import environment


@pytest.fixture(params=["kernel", "lease"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DECATHLON_LOCKS", request.param)
    return request.param


def _hold(path: Path, started: "multiprocessing.synchronize.Event") -> None:
    with locks.locked(path):
        started.set()
        time.sleep(60)


def test_a_lock_excludes_and_dies_with_its_owner(tmp_path: Path, kind: str) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    owner = context.Process(target=_hold, args=(tmp_path / "lock", started))
    owner.start()
    assert started.wait(60)
    waited = []

    def waiting() -> None:
        waited.append(locks.is_locked(tmp_path / "lock"))
        owner.kill()
        owner.join()

    with locks.locked(tmp_path / "lock", waiting):
        assert waited == [True]


def test_whether_a_lock_is_held(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    assert not locks.is_locked(path)
    with locks.locked(path):
        assert locks.is_locked(path)
        with pytest.raises(BlockingIOError), locks.locked(path, wait=False):
            pass
    assert not locks.is_locked(path)
    with pytest.raises(RuntimeError), locks.locked(path):
        raise RuntimeError
    assert not locks.is_locked(path)
    assert [left.name for left in tmp_path.iterdir()] == ["lock"]


def test_many_processes_count_without_losing_one(tmp_path: Path, kind: str) -> None:
    (tmp_path / "count").write_text("0")
    code = (
        "import sys, pathlib; from decathlon import locks\n"
        "folder = pathlib.Path(sys.argv[1]); count = folder / 'count'\n"
        "for _ in range(10):\n"
        "    with locks.locked(folder / 'lock'):\n"
        "        count.write_text(str(int(count.read_text()) + 1))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    several = [subprocess.Popen(command, env=environment()) for _ in range(3)]
    assert [process.wait(120) for process in several] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "30"


@pytest.mark.parametrize("code", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_without_locks_of_the_kernel_a_lease_takes_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(getattr(errno, code), "no")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_reasons", {})
    with caplog.at_level("WARNING", "decathlon.locks"):
        for _ in range(2):
            with locks.locked(tmp_path / "lock"):
                assert (tmp_path / "lock.lease").exists() and locks.is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock.lease").exists()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "offers no locks (E" in said[0], "said once"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("server:/x /scratch nfs4 rw,relatime,vers=4.2,local_lock=none 0 0", None),
        ("server:/x /scratch nfs rw,vers=3,nolock,local_lock=all 0 0", "NFS mounted with nolock"),
        ("server:/x /scratch nfs rw,vers=3,local_lock=flock 0 0", "NFS mounted with local_lock=flock"),
        ("mgs:/x /scratch lustre rw,flock,lazystatfs 0 0", None),
        ("mgs:/x /scratch lustre rw,localflock 0 0", "Lustre mounted with localflock"),
        ("mgs:/x /scratch lustre rw,lazystatfs 0 0", "Lustre mounted without flock"),
        ("server:/x /scratch/inner nfs rw,nolock 0 0", None),
        ("server:/x /scratch\\040two nfs rw,nolock 0 0", None),
    ],
)
def test_locks_that_other_machines_miss_are_known_by_the_mount(line: str, reason: str | None) -> None:
    mounts = f"/dev/sda1 / ext4 rw,relatime 0 0\n{line}\ntmpfs /tmp tmpfs rw 0 0\n"
    assert locks.unshared(Path("/scratch/me/results"), mounts) == reason
    assert locks.unshared(Path("/home/me"), mounts) is None


def test_a_name_of_locks_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECATHLON_LOCKS", "magic")
    with pytest.raises(ConfigError, match="choose auto, kernel, lease"), locks.locked(tmp_path / "lock"):
        pass


def foreign(path: Path, age: float) -> None:
    """The lease of a process of another machine that was last touched ``age`` seconds ago."""
    owner = {"token": "theirs", "machine": "elsewhere", "namespace": 1, "pid": 1, "start": "1"}
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - age,) * 2)


def test_the_lease_of_another_machine_is_believed_until_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "a.lease"
    foreign(path, age=30)
    assert not Lease(path, expiry=60).take()
    foreign(path, age=90)
    lease = Lease(path, expiry=60)
    assert lease.take()
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_find_a_dead_lease_one_gets_it(tmp_path: Path) -> None:
    for _ in range(20):
        path = tmp_path / "a.lease"
        foreign(path, age=1000)
        taken: list[Lease] = []
        start = threading.Barrier(4)

        def race(path: Path = path, taken: list[Lease] = taken, start: threading.Barrier = start) -> None:
            lease = Lease(path)
            start.wait()
            if lease.take():
                taken.append(lease)

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) <= 1, "two have it"
        for lease in taken:
            lease.release()
        path.unlink(missing_ok=True)
    assert list(tmp_path.iterdir()) == []


def test_a_holder_keeps_its_lease_young_and_hears_of_its_loss(tmp_path: Path) -> None:
    path, lost = tmp_path / "a.lease", threading.Event()
    lease = Lease(path, lost=lost.set, beat=0.02)
    assert lease.take()
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 30
    while path.stat().st_mtime < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 1
    foreign(path, age=0)
    assert lost.wait(30)
    lease.release()
    assert json.loads(path.read_text())["token"] == "theirs", "what is another's now stays"


def test_a_process_number_that_is_used_again_is_not_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "a.lease"
    path.write_text(json.dumps({"token": "old", **leases._me(), "start": "before"}))
    assert leases.is_dead(path)
    path.write_text(json.dumps({"token": "mine", **leases._me()}))
    assert not leases.is_dead(path)
    assert not leases.is_dead(tmp_path / "none"), "a missing lease is free, not dead"


def test_a_broken_lease_expires(tmp_path: Path) -> None:
    path = tmp_path / "a.lease"
    path.write_text("{")
    assert not leases.is_dead(path, expiry=60)
    os.utime(path, (0, 0))
    assert leases.is_dead(path, expiry=60)
