"""Locks that die with their owner: the kernel's where the file system offers them to every machine, else leases."""

import errno
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from decathlon.errors import ConfigError
from decathlon.leases import Lease, is_dead

KINDS = ("auto", "kernel", "lease")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_log = logging.getLogger(__name__)
# Why the kernel's locks do not serve on a device; found out, and said, once for each.
_reasons: dict[int, str | None] = {}


@contextmanager
def locked(path: str | Path, waiting: Callable[[], None] | None = None, wait: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on the file ``path``. It is dropped when its last owner dies.

    ``waiting`` is called once when another process has the lock. Yields the file descriptor, which a child
    process may inherit to hold the lock on (a lease, see :mod:`decathlon.leases`, is its taker's alone).
    Where ``flock`` is missing or does not reach other machines, a lease takes its place. The variable
    ``DECATHLON_LOCKS`` of the environment (``kernel`` or ``lease``) decides otherwise.

    Raises:
        BlockingIOError: another process has the lock, and ``wait`` is false.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    lease = _lease(path) if by_lease(path.parent) else None
    try:
        if not (lease.take() if lease else _try_lock(descriptor)):
            if not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, "another process has the lock", str(path))
            if waiting is not None:
                waiting()
            if lease is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            while lease is not None and not lease.take():
                time.sleep(0.5)
        try:
            yield descriptor
        finally:
            if lease is not None:
                lease.release()
    finally:
        os.close(descriptor)


def is_locked(path: str | Path) -> bool:
    """Whether some process has the lock ``path``."""
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if by_lease(path.parent):
            lease = _lease(path).path
            return lease.exists() and not is_dead(lease)
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def by_lease(folder: Path) -> bool:
    """Whether locks in ``folder`` are leases: its file system offers no ``flock``, or one that other machines miss.

    Raises:
        ConfigError: ``DECATHLON_LOCKS`` is none of ``auto``, ``kernel`` and ``lease``.
    """
    kind = os.environ.get("DECATHLON_LOCKS") or "auto"
    if kind not in KINDS:
        raise ConfigError(f"DECATHLON_LOCKS={kind}; choose {', '.join(KINDS)}")
    if kind != "auto":
        return kind == "lease"
    device = folder.stat().st_dev
    if device not in _reasons:
        _reasons[device] = unshared(folder.absolute(), _mounts()) or _refused(folder)
        if _reasons[device]:
            _log.warning("%s: %s; leases with a heartbeat take the place of locks", folder, _reasons[device])
    return _reasons[device] is not None


def unshared(folder: Path, mounts: str) -> str | None:
    """Why ``flock`` in ``folder`` does not reach other machines, by the table of mounts; None if it does.

    Args:
        folder: an absolute path.
        mounts: the text of ``/proc/mounts``.
    """
    place, kind, options = Path("/"), "", set[str]()
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[1]))
        if folder.is_relative_to(point) and len(point.parts) >= len(place.parts):
            place, kind, options = point, fields[2], set(fields[3].split(","))
    if kind.startswith("nfs"):
        for option in ("nolock", "local_lock=all", "local_lock=flock"):
            if option in options:
                return f"NFS mounted with {option}"
    if kind == "lustre" and "flock" not in options:
        return "Lustre mounted with localflock" if "localflock" in options else "Lustre mounted without flock"
    return None


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _refused(folder: Path) -> str | None:
    """Why the kernel gives no lock on a file of ``folder``; None if it does."""
    probe = folder / f".lock-{os.getpid()}-{time.monotonic_ns()}"
    descriptor = os.open(probe, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _try_lock(descriptor)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return f"its file system offers no locks ({errno.errorcode[error.errno or 0]})"
    finally:
        os.close(descriptor)
        probe.unlink()
    return None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lease(path: Path) -> Lease:
    return Lease(path.with_name(path.name + ".lease"))
