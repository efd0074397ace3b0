"""A lock for file systems whose own locks do not reach other machines: a file that its holder keeps touching.

One file stands for the lock. Creating it is exclusive on every file system in use, NFS included. Its holder sets its
time of change again and again; a holder that has died stops, and after ``EXPIRY`` seconds anybody may take the file
away. On the machine of the holder nobody waits so long: whether its process lives is seen at once.
All times are those of the file server, so clocks of machines need not agree.
"""

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BEAT = 10.0
EXPIRY = 120.0
_log = logging.getLogger(__name__)


class Lease:
    """The lease ``path``, from :meth:`take` to :meth:`release`.

    Args:
        path: the file that stands for the lock, in a folder that exists.
        lost: called in the thread of the heartbeat when somebody else has the lease: this process was stopped for
            longer than ``EXPIRY``. Default: the process gets SIGTERM, which ends a job with a checkpoint.
        beat: seconds between two heartbeats.
        expiry: seconds after which a lease that is not touched is dead; many heartbeats long.
    """

    def __init__(
        self, path: Path, lost: Callable[[], None] | None = None, beat: float = BEAT, expiry: float = EXPIRY
    ) -> None:
        self.path, self.beat, self.expiry = path, beat, expiry
        self.lost = lost or self._end_process
        self.token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def take(self) -> bool:
        """Whether this process has the lease now; false where a living one has it."""
        if not self._create():
            if not is_dead(self.path, self.expiry) or not self._clear():
                return False
            if not self._create():
                return False
        self._heart = threading.Thread(target=self._keep, name=f"lease {self.path.name}", daemon=True)
        self._heart.start()
        return True

    def release(self) -> None:
        """Give the lease back; nothing happens to one that was lost."""
        self._ended.set()
        if self._heart is not None:
            self._heart.join()
        if _read(self.path).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Put the file there, whole, if there is none: written under another name, and linked."""
        draft = self.path.with_name(f".{self.path.name}.{self.token}")
        draft.write_text(json.dumps({"token": self.token, **_me()}), encoding="utf-8")
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _clear(self) -> bool:
        """Take a dead lease away, one process at a time: who finds it dead must not remove its successor's."""
        gate = self.path.with_name(f"{self.path.name}.clearing")
        try:
            gate.touch(exist_ok=False)
        except FileExistsError:
            if _age(gate) > self.expiry:  # its process died between two lines
                gate.unlink(missing_ok=True)
            return False
        try:
            if not is_dead(self.path, self.expiry):
                return False
            self.path.unlink(missing_ok=True)
            return True
        finally:
            gate.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._ended.wait(self.beat):
            try:
                mine = _read(self.path).get("token") == self.token
                if mine:
                    os.utime(self.path)
            except OSError as error:  # the server may be away for a while
                _log.warning("the lease %s could not be renewed (%s)", self.path, error.strerror or error)
                continue
            if not mine:
                self.lost()
                return

    def _end_process(self) -> None:
        _log.error("another process has taken the lease %s: this one was silent for too long, and ends", self.path)
        os.kill(os.getpid(), signal.SIGTERM)


def is_dead(path: Path, expiry: float = EXPIRY) -> bool:
    """Whether the lease ``path`` belongs to a process that has died. A missing one is not dead but free."""
    try:
        owner = _read(path)
        here = _me()
        if owner and all(owner.get(key) == here[key] for key in ("machine", "namespace")):
            return not _lives(owner)
        return _age(path) > expiry
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict[str, object]:
    """Who holds the lease; empty where the file is missing or is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _age(path: Path) -> float:
    """Seconds since the last change of ``path`` by the clock of its file server: that of a file written just now."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    now = time.time()
    with suppress(OSError):  # a folder that may only be read: by the clock of this machine
        probe.touch()
        try:
            now = probe.stat().st_mtime
        finally:
            probe.unlink()
    return now - path.stat().st_mtime


def _me() -> dict[str, object]:
    """What says which process of which machine this is, also among containers of one name."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    machine, inside = socket.gethostname(), 0
    with suppress(OSError):  # no Linux
        machine = boot.read_text().strip()
        inside = namespace.stat().st_ino
    return {"machine": machine, "namespace": inside, "pid": os.getpid(), "start": _start(os.getpid())}


def _start(pid: int) -> str:
    """When a process was started, so that a number that is used again is not taken for it; empty where not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _lives(owner: dict[str, object]) -> bool:
    try:
        pid = int(str(owner["pid"]))
        os.kill(pid, 0)
    except (KeyError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return _start(pid) == owner.get("start")
