"""What can be run: tasks, and for each its datasets, methods and tables, read from the config files.

Tasks of your own need not live in this package: ``DECATHLON_CONFIGS`` names further config folders (separated as in
PATH), laid out like ``configs/``.
"""

import os
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

PACKAGE = Path(__file__).parents[1]
# In the wheel the configs lie inside the package, in a checkout at its top.
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parents[1] / "configs"

# Groups whose options belong to a task. `dataset=hiv` picks datasets/<task>/hiv.yaml.
PER_TASK = {"dataset": "datasets", "method": "methods"}


def roots() -> list[Path]:
    """All config folders: the package's, then those of ``DECATHLON_CONFIGS``."""
    extra = os.environ.get("DECATHLON_CONFIGS", "")
    return [CONFIGS, *(Path(path).absolute() for path in extra.split(os.pathsep) if path)]


def names(folder: str) -> list[str]:
    """Sorted option names of a config folder, for example ``names("datasets/molpeg")``."""
    return sorted({path.stem for root in roots() for path in (root / folder).glob("*.yaml")})


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
    """One config file as a plain, unresolved mapping; ``path`` is relative and without suffix."""
    file = next(file for root in roots() if (file := root / f"{path}.yaml").is_file())
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def default_task() -> str:
    """The task of a bare ``run``."""
    return next(entry["task"] for entry in read("run")["defaults"] if "task" in entry)


class ExtraConfigs(SearchPathPlugin):
    """Adds the folders of ``DECATHLON_CONFIGS`` to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for root in roots()[1:]:
            search_path.append("decathlon", f"file://{root}")


def register_groups() -> None:
    """Give Hydra the groups `dataset` and `method`: each option defers to the file of the chosen task."""
    Plugins.instance().register(ExtraConfigs)
    # Hydra copies its config sources, and with them this store, for every group that it lists: a second of `--help`.
    # Sharing is safe, since the store itself copies each node that it hands out.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    for group, folder in PER_TASK.items():
        options = {name for task in tasks() for name in names(f"{folder}/{task}")}
        for name in sorted(options):
            node = {"defaults": [{f"/{folder}@_global_.{group}": f"${{task}}/{name}"}]}
            store.store(group=group, name=name, node=node)
