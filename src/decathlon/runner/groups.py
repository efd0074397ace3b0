"""What Hydra is told of our configs: groups whose options belong to a task, further config folders, shared bases."""

from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf, open_dict

from decathlon.runner import catalog

SWEEPER = "hydra_plugins.decathlon.Sweeper"
"""The name by which Hydra knows the sweeper of ``sweep.py``: it takes plugins only from a package of that name."""


class ExtraConfigs(SearchPathPlugin):
    """Adds the folders of ``DECATHLON_CONFIGS`` to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for root in catalog.roots()[1:]:
            search_path.append("decathlon", f"file://{root}")


class ConfigFolder(FileConfigSource):
    """Files in which ``defaults: [_base]`` means the base beside them, merged into the same place.

    Hydra would look for it above the task's folder: to Hydra an option of a task is ``<task>/<name>`` of one group.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        found = super().load_config(config_path)
        group, _, rest = config_path.partition("/")
        # In a base, Hydra looks for another one where it should.
        if group in catalog.PER_TASK.values() and "/" in rest and not catalog.is_base(rest.rpartition("/")[2]):
            folder = rest.rpartition("/")[0]
            entries = OmegaConf.to_container(found.config, resolve=False).get("defaults") or []  # type: ignore[union-attr]
            if any(catalog.is_base(entry) for entry in entries):
                with open_dict(found.config):
                    found.config["defaults"] = [
                        f"{folder}/{entry.removesuffix('.yaml')}@_here_" if catalog.is_base(entry) else entry
                        for entry in entries
                    ]
        return found


# Hydra registers its sources again in the workers of some launchers, and compares them by name.
ConfigFolder.__name__ = FileConfigSource.__name__


def register_groups() -> None:
    """Give Hydra the groups `dataset` and `method`: each option defers to the file of the chosen task."""
    Plugins.instance()
    SourcesRegistry.instance().types["file"] = ConfigFolder
    _register(tuple(catalog.roots()), tuple((group, tuple(_options(folder))) for group, folder in _GROUPS))


_GROUPS = tuple(catalog.PER_TASK.items())


def _options(folder: str) -> list[str]:
    return sorted({name for task in catalog.tasks() for name in catalog.names(f"{folder}/{task}")})


@cache
def _register(roots: tuple[Path, ...], options: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    Plugins.instance().register(ExtraConfigs)
    # Hydra copies its config sources, and with them this store, for every group that it lists: a second of `--help`.
    # Sharing is safe, since the store itself copies each node that it hands out.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    node: dict[str, Any] = {"_target_": SWEEPER, "max_batch_size": None, "params": None}
    store.store(group="hydra/sweeper", name="decathlon", node=node)
    for group, found in options:
        for name in found:
            defers = {"defaults": [{f"/{catalog.PER_TASK[group]}@_global_.{group}": f"${{task}}/{name}"}]}
            store.store(group=group, name=name, node=defers)
