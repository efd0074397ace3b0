"""What can be run: tasks, and for each its datasets, methods and tables, read from the config files.

Tasks of your own need not live in this package: ``DECATHLON_CONFIGS`` names further config folders (separated as in
PATH), laid out like ``configs/``.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from decathlon.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
# In the wheel the configs lie inside the package, in a checkout at its top.
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parents[1] / "configs"

# Groups whose options belong to a task. `dataset=hiv` picks datasets/<task>/hiv.yaml.
PER_TASK = {"dataset": "datasets", "method": "methods"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def roots() -> list[Path]:
    """All config folders: the package's, then those of ``DECATHLON_CONFIGS``.

    Raises:
        ConfigError: ``DECATHLON_CONFIGS`` names a folder that is not there.
    """
    extra = os.environ.get("DECATHLON_CONFIGS", "")
    found = [CONFIGS, *(Path(path).expanduser().absolute() for path in extra.split(os.pathsep) if path)]
    for root in found:
        if not root.is_dir():
            raise ConfigError(f"DECATHLON_CONFIGS names {root}, and there is no such folder")
    return found


def names(folder: str) -> list[str]:
    """Sorted option names of a config folder, for example ``names("datasets/molpeg")``.

    Files that begin with ``_`` are bases that others share, no options.
    """
    found = {path.stem for root in roots() for path in (root / folder).glob("*.yaml")}
    return sorted(name for name in found if not name.startswith("_"))


def tasks() -> list[str]:
    """Names of all tasks."""
    return names("task")


def datasets(task: str) -> list[str]:
    """Names of a task's datasets."""
    return names(f"datasets/{task}")


def methods(task: str) -> list[str]:
    """Names of a task's methods."""
    return names(f"methods/{task}")


def experiments(task: str) -> list[str]:
    """Names of a task's tables and figures, as in ``experiment=<task>/<name>``."""
    return [f"{task}/{name}" for name in names(f"experiment/{task}")]


def read(path: str) -> dict[str, Any]:
    """One config file as a plain, unresolved mapping; ``path`` is relative and without suffix.

    What its ``defaults`` take from other files of its folder (``defaults: [_base]``) is in it, as Hydra merges it.
    """
    file = next((file for root in roots() if (file := root / f"{path}.yaml").is_file()), None)
    if file is None:
        raise ConfigError(f"{path}.yaml is in no config folder")
    content = dict(_read(file, file.stat().st_mtime_ns))
    bases = [entry for entry in content.get("defaults") or [] if isinstance(entry, str)]
    if not any(is_base(base) for base in bases):
        return content
    own = {key: value for key, value in content.items() if key != "defaults"}
    whole: dict[str, Any] = {}
    for base in bases if "_self_" in bases else [*bases, "_self_"]:
        whole = _merged(whole, own if base == "_self_" else read(f"{path.rpartition('/')[0]}/{base}"))
    return whole


def is_base(entry: object) -> bool:
    """Whether an entry of a ``defaults`` list names a base in the same folder, as ``_pde``."""
    return isinstance(entry, str) and entry.startswith("_") and entry != "_self_"


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, mapping by mapping."""
    whole = dict(below)
    for key, value in above.items():
        inside = whole.get(key)
        whole[key] = _merged(inside, value) if isinstance(inside, dict) and isinstance(value, dict) else value
    return whole


@lru_cache(maxsize=1024)
def _read(file: Path, changed: int) -> dict[str, Any]:
    """A YAML file as it was at the time ``changed``."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{file}{where} is no YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is no mapping of keys to values")
    return content


def default_task() -> str:
    """The task of a bare ``run``."""
    return next(entry["task"] for entry in read("run")["defaults"] if "task" in entry)
