"""What of a results folder can be removed without losing a record, and removing it.

Only what a run itself writes is ever touched: what someone else has put into the folder stays.
"""

import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from decathlon import locks, trained
from decathlon.errors import DataError
from decathlon.runner import records
from decathlon.runner.records import Found, Results, size_of

_LEFT_BEHIND = re.compile(r".+\.broken\d*|\..+\.[a-z0-9_]{8}(\.part)?(\.\w+)?")


@dataclass
class Removal:
    """A file or folder that can go: why, how large it is, and the lock under which it goes."""

    path: Path
    why: str
    size: int
    lock: Path


def failed(results: Results) -> Iterable[Removal]:
    """Jobs that failed, with all that is in their folders."""
    for job in results.jobs:
        if job.state == "failed":
            yield _whole(job, "failed")


def debug(results: Results) -> Iterable[Removal]:
    """Smoke runs (``+debug=true``): no table has them."""
    for job in results.jobs:
        if job.config.get("debug") and job.state != "running":
            yield _whole(job, "debug")


def checkpoints(results: Results) -> Iterable[Removal]:
    """The checkpoints of finished jobs; their records, logs and trained objects stay."""
    for job in results.jobs:
        folder = job.folder / "checkpoints"
        if job.is_finished and folder.is_dir() and not folder.is_symlink():
            yield Removal(folder, "checkpoints of a finished job", size_of(folder), job.folder / "lock")


def strays(results: Results) -> Iterable[Removal]:
    """What killed runs left: half-written and damaged files, folders of jobs that never began, notes of dead sweeps."""
    for folder in sorted(results.root.glob("*/*/*/*/")):
        if not records._IDENTITY.fullmatch(folder.name):
            continue
        if records.read(folder) is None and {path.name for path in folder.iterdir()} <= {"lock"}:
            yield Removal(folder, "never began", size_of(folder), folder / "lock")
            continue
        for path in (*folder.glob("*"), *folder.glob("checkpoints/*")):
            ours = path.is_file() or path.name.startswith(f".{trained.FOLDER}.")
            if ours and not path.is_symlink() and _LEFT_BEHIND.fullmatch(path.name):
                size = size_of(path) if path.is_dir() else path.stat().st_size
                yield Removal(path, "left behind by a killed run", size, folder / "lock")
    for notes in sorted(results.root.glob(".sweeps/*/.sweep-*/")):
        if not locks.is_locked(notes / "lock"):
            yield Removal(notes, "notes of a sweep that was killed", size_of(notes), notes / "lock")


KINDS: dict[str, Callable[[Results], Iterable[Removal]]] = {
    "failed": failed, "debug": debug, "strays": strays, "checkpoints": checkpoints,
}  # fmt: skip


def _whole(job: Found, why: str) -> Removal:
    return Removal(job.folder, why, size_of(job.folder), job.folder / "lock")


def remove(removals: Iterable[Removal], root: Path) -> tuple[int, list[str]]:
    """Remove them, each under its job's lock, and the folders below ``root`` that are empty then.

    Returns:
        The bytes that were freed, and a line for each that another process has or that cannot be removed.
    """
    freed, said = 0, []
    for removal in removals:
        if not removal.path.exists():
            continue  # inside another that is gone
        try:
            with locks.locked(removal.lock, wait=False):
                if removal.path.is_dir():
                    shutil.rmtree(removal.path)
                else:
                    removal.path.unlink()
            freed += removal.size
        except BlockingIOError:
            said.append(f"{removal.path} stays: another process has it")
        except (OSError, DataError) as error:
            said.append(f"{removal.path} stays: {getattr(error, 'strerror', None) or error}")
        for parent in removal.path.parents:
            if parent == root or root not in parent.parents:
                break
            with suppress(OSError):  # it is not empty
                parent.rmdir()
    return freed, said
