"""What lies in a results folder: one entry for each job, read from its files alone. Nothing here imports torch."""

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from decathlon import locks
from decathlon.errors import ConfigError

STATES = ("finished", "diverged", "running", "failed", "interrupted", "unreadable")
_MARKS = ("metrics.json", "failure.json", "config.yaml")  # of a job's folder
_IDENTITY = re.compile(r"[0-9a-f]{12}")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Found:
    """A job as its folder tells of it.

    Attributes:
        state: ``finished``; ``diverged``: finished without a number for its main metric; ``running``: a process has its
            lock; ``failed``; ``interrupted``: begun, and no process has it; ``unreadable``: its record is damaged.
        content: the record; of a failed job its failure; else empty.
        config: the resolved config, as far as a file has it.
        fault: why a file of it cannot be read, in a few words.
    """

    folder: Path
    task: str
    dataset: str
    method: str
    identity: str
    state: str
    content: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    changed: float = 0.0
    fault: str = ""

    @property
    def metrics(self) -> dict[str, float | None]:
        """All metrics of a finished job; None where one is not finite."""
        return self.content.get("metrics", {}) if self.is_finished else {}

    @property
    def is_finished(self) -> bool:
        return self.state in ("finished", "diverged")

    @property
    def seconds(self) -> float | None:
        """Wall time of a finished job."""
        time = _number(self.content.get("wall_time_s"))
        return float(time) if self.is_finished and time is not None and time >= 0 else None

    @property
    def on_gpu(self) -> bool:
        """Whether the record tells of memory on a device."""
        memory = self.content.get("peak_memory_mib")
        return isinstance(memory, Mapping) and "device" in memory

    @property
    def report(self) -> list[str]:
        """Names of the metrics to show, the main one first."""
        named = self.config.get("report")
        if isinstance(named, list) and named:
            return [name for name in map(str, named) if name in self.metrics]
        return [name for name in self.metrics if name.startswith("test/")]

    @property
    def path(self) -> str:
        """``task/dataset/method/id``."""
        return "/".join((self.task, self.dataset, self.method, self.identity))


@dataclass
class Results:
    """All jobs of a results folder, and how many files and folders are in it that belong to none."""

    root: Path
    jobs: list[Found]
    strays: int = 0

    @property
    def unreadable(self) -> list[Found]:
        return [job for job in self.jobs if job.fault]


class Folders:
    """Which jobs have a folder, by one listing for all jobs of a method: most jobs of a new sweep have none."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}

    def __contains__(self, folder: Path) -> bool:
        if folder.parent not in self._names:
            self._names[folder.parent] = {entry.name for entry in _entries(str(folder.parent))}
        return folder.name in self._names[folder.parent]


def scan(root: str | Path, task: str | None = None) -> Results:
    """Read a results folder ``<root>/<task>/<dataset>/<method>/<id>``.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
    """
    root = Path(root).expanduser()
    try:
        top = list(os.scandir(root))
    except FileNotFoundError:
        raise ConfigError(f"{root} is no folder of results; name one with results_dir=...") from None
    except OSError as error:
        raise ConfigError(f"{root} cannot be read: {error.strerror}") from error
    results = Results(root, [])
    results.jobs.extend(_walk(top, task, results))
    results.jobs.sort(key=lambda job: (job.task, job.dataset, job.method, job.identity))
    return results


def walk(root: Path, task: str) -> Iterator[Found]:
    """The jobs of a task, one at a time: where there are thousands, what is needed of each is little. In any order."""
    return _walk(_entries(str(root)), task, Results(root, []))


def _walk(top: list[os.DirEntry[str]], task: str | None, results: Results) -> Iterator[Found]:
    for folder in _folders(top, results):
        if task is not None and folder.name != task:
            continue
        for dataset in _folders(_entries(folder.path), results):
            for method in _folders(_entries(dataset.path), results):
                for job in _folders(_entries(method.path), results):
                    found = read(job.path) if _IDENTITY.fullmatch(job.name) else None
                    if found is None:
                        results.strays += 1
                    else:
                        yield found


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(path))
    except OSError:
        return []


def _folders(entries: Iterable[os.DirEntry[str]], results: Results) -> Iterator[os.DirEntry[str]]:
    for entry in entries:
        if entry.name == ".sweeps":
            continue
        if not entry.name.startswith(".") and _is_folder(entry) and not _leads_up(entry):
            yield entry
        else:
            results.strays += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, a folder that may not be looked at
        return False


def _leads_up(entry: os.DirEntry[str]) -> bool:
    """Whether a link points to a folder that it lies in."""
    if not entry.is_symlink():
        return False
    place = os.path.realpath(os.path.dirname(entry.path))
    return os.path.commonpath([place, os.path.realpath(entry.path)]) == os.path.realpath(entry.path)


def read(folder: str | Path) -> Found | None:
    """The job in a folder; None if no file of a job is in it."""
    folder = Path(folder)
    names = _changes(folder)
    if not names:
        return None
    task, dataset, method, identity = Path(os.path.abspath(folder)).parts[-4:]
    found = Found(folder, task, dataset, method, identity, "interrupted")
    record: dict[str, Any] = {}
    if "metrics.json" in names:
        record = _json(folder / "metrics.json", found)
        if not isinstance(record.get("metrics"), dict):
            found.fault = found.fault or "metrics.json: no metrics in it"
            record, found.state = {}, "unreadable"
        else:
            record["metrics"] = {name: _number(value) for name, value in record["metrics"].items()}
    if record:
        found.state = "diverged" if is_diverged(record) else "finished"
    elif _has_owner(folder / "lock"):
        found.state = "running"
    elif "failure.json" in names:
        record, found.state = _json(folder / "failure.json", found), "failed"
    config = record.get("config")
    found.content = record
    found.config = config if isinstance(config, dict) else _yaml(folder / "config.yaml", names, found)
    found.changed = next(iter(names.values()))
    return found


def _changes(folder: Path) -> dict[str, float]:
    """When each of the marks in a folder was changed. By one look: a job may go while it is read."""
    found = {}
    for name in _MARKS:
        with suppress(OSError):
            found[name] = os.lstat(os.path.join(folder, name)).st_mtime
    return found


def _has_owner(lock: Path) -> bool:
    try:
        return locks.is_locked(lock)
    except OSError:  # not ours to open
        return False


def _number(value: Any) -> float | None:
    """A metric; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) <= sys.float_info.max else None


def is_diverged(record: Mapping[str, Any]) -> bool:
    """Whether a finished job says that it diverged, or has no number for its main metric."""
    metrics = record["metrics"]
    if any(name.rpartition("/")[2] == "diverged" and value for name, value in metrics.items()):
        return True
    config = record.get("config")
    report = config.get("report") if isinstance(config, dict) else None
    named = map(str, report) if isinstance(report, list) else []
    main = next((name for name in named if name in metrics), None)
    return main is not None and metrics[main] is None


def _bytes(path: Path) -> bytes:
    """What is in a file; of a pipe or a device one would wait for ever."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return file.read()


def _json(path: Path, found: Found) -> dict[str, Any]:
    text = b""
    try:
        text = _bytes(path)
        content = json.loads(text)
        if isinstance(content, dict):
            return content
        found.fault = f"{path.name}: a {type(content).__name__}, no mapping"
    except RecursionError:
        found.fault = f"{path.name}: nested too deeply"
    except OSError as error:
        found.fault = f"{path.name}: {error.strerror}"
    except ValueError as error:
        found.fault = f"{path.name}: {error if text else 'empty'}"
    return {}


def _yaml(path: Path, names: Collection[str], found: Found) -> dict[str, Any]:
    if path.name not in names:
        return {}
    try:
        content = yaml.load(_bytes(path), Loader=_LOADER)
        if isinstance(content, dict):
            return json.loads(json.dumps(content, default=str))  # as a record has it: a tree, keys are texts
        found.fault = found.fault or f"{path.name}: no mapping"
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        found.fault = found.fault or f"{path.name}: no YAML"
    return {}


def find(name: str, root: str | Path) -> Found:
    """The job of an id, of the beginning of one, of ``task/dataset/method/id`` or of a folder.

    Raises:
        ConfigError: there is none, or several.
    """
    for folder in (Path(name).expanduser(), Path(root, name)):
        if folder.is_dir() and _IDENTITY.fullmatch(Path(os.path.abspath(folder)).name):
            found = read(folder)
            if found is None:
                raise ConfigError(f"{folder} holds no job")
            return found
    identity = name.rstrip("/").rpartition("/")[2]
    if not re.fullmatch(r"[0-9a-f]{1,12}", identity):
        raise ConfigError(
            f"{name or 'an empty name'} is no job: neither a folder nor the id of one (`decathlon runs` lists them)"
        )
    folders = [path for path in Path(root).expanduser().glob(f"*/*/*/{identity}*") if _IDENTITY.fullmatch(path.name)]
    matching = [job for job in map(read, sorted(folders)) if job is not None]
    if not matching:
        raise ConfigError(f"no job in {root} has an id that begins with {identity}; `decathlon runs` lists them")
    if len(matching) > 1:
        raise ConfigError(
            f"{identity} is the beginning of {len(matching)} ids: {', '.join(job.path for job in matching[:4])}"
            + (", …" if len(matching) > 4 else "")
        )
    return matching[0]


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total
