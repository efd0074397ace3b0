"""A job: a composed config, its identity, its folder, its record."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, open_dict

from decathlon import files
from decathlon.errors import ConfigError
from decathlon.runner.compose import resolve, settle
from decathlon.runner.keys import DESCRIPTIVE, NOT_IDENTITY


@dataclass
class Job:
    """One job. ``config`` is resolved and plain; ``folder`` holds all that is kept of it.

    Raises:
        ConfigError: the name of the task, the dataset or the method cannot be a folder's.
    """

    config: dict[str, Any]
    identity: str
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        for group in ("task", "dataset", "method"):
            check_name(f"{group}.name", self.config[group].get("name"))
        self.folder = Path(self.config["results_dir"], self.task, self.dataset, self.method, self.identity)

    @classmethod
    def of(cls, cfg: DictConfig) -> "Job":
        """The job of a composed config."""
        settled = settle(cfg)
        return cls(resolve(settled), identify(settled))

    @property
    def task(self) -> str:
        return self.config["task"]["name"]

    @property
    def dataset(self) -> str:
        return self.config["dataset"]["name"]

    @property
    def method(self) -> str:
        return self.config["method"]["name"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def record_path(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def failure_path(self) -> Path:
        return self.folder / "failure.json"

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def record(self) -> dict[str, Any] | None:
        """The record of the finished job; None if there is none that can be read."""
        record = read_json(self.record_path)
        return record if record is not None and isinstance(record.get("metrics"), dict) else None

    def failure(self) -> dict[str, Any] | None:
        """The record of its last failure, or None."""
        return read_json(self.failure_path)

    def write_config(self) -> None:
        """Write ``config.yaml``, from which other processes can run this very job."""
        files.write_text(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))

    def finish(self, record: dict[str, Any]) -> None:
        """Write the record, atomically and last."""
        files.write_text(self.record_path, json.dumps(record, indent=2, default=str) + "\n")
        self.failure_path.unlink(missing_ok=True)

    def fail(self, error: BaseException, trace: str) -> None:
        """Write the failure record."""
        text = {
            "status": "failed",
            "error": f"{type(error).__name__}: {error}",
            "traceback": trace,
            "config": self.config,
        }
        files.write_text(self.failure_path, json.dumps(text, indent=2, default=str) + "\n")


def check_name(key: str, name: Any) -> None:
    """Whether a name can be a folder's: letters, digits and ``. _ + - @``, not a dot first.

    Raises:
        ConfigError: it cannot.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w+@-][\w.+@-]*", name):
        raise ConfigError(f"{key}={'null' if name is None else name} cannot be the name of a folder")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file of a job; None if there is none, and, said once, if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, no mapping")
        return content
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        if path not in _named:
            _named.add(path)
            reason = error.strerror if isinstance(error, OSError) else "empty" if not path.stat().st_size else error
            print(f"warning: {path} cannot be read ({reason}); it counts as absent", file=sys.stderr)
        return None


_named: set[Path] = set()


def identify(settled: DictConfig) -> str:
    """Hash of everything in a settled config that can change the result of the job: 12 hexadecimal digits."""
    return hash_of(resolve(probe_of(settled)))


def probe_of(settled: DictConfig) -> DictConfig:
    """A copy of a settled config in which what cannot change the result is gone or emptied, as far as it can be.

    Interpolations may point into the parts that are left out, so :data:`~.keys.NOT_IDENTITY` goes after resolving.
    """
    probe = settled.copy()
    with open_dict(probe):
        probe.data_dir = probe.results_dir = ""
        for key in [*(probe.task.pop("ignores", None) or []), *(probe.method.get("ignores") or [])]:
            probe[key] = None
        for group in ("task", "dataset", "method"):
            for key in DESCRIPTIVE:
                probe[group].pop(key, None)
        probe.checkpoint.pop("every_n_steps", None)
        probe.data.pop("processes", None)
        if not probe.get("debug"):
            probe.pop("debug", None)
        probe.pop("table", None)
    return probe


def hash_of(resolved: dict[str, Any]) -> str:
    """The identity of a resolved probe."""
    content = {key: value for key, value in resolved.items() if key not in NOT_IDENTITY}
    text = json.dumps(_canonical(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: Any) -> Any:
    """One and 1.0 are the same number, and null is the same as a key that is not there."""
    if isinstance(value, dict):
        return {str(_canonical(key)): _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
