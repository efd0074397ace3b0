"""From overrides to the config of a job."""

import copy
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import omegaconf.base
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf, open_dict

from decathlon.errors import ConfigError
from decathlon.runner import catalog, groups

PATHS = ("data_dir", "results_dir")
GROUPS = ("task", "dataset", "method", "trainer", "logger", "experiment")


class Composer:
    """Composes configs as Hydra does, outside of a Hydra application.

    Args:
        jobs_only: for a caller that composes many jobs in a moment: each file is read once, and what is no part of a
            job is left out: Hydra's own logging, help, launcher and sweeper, and an experiment's table.
    """

    def __init__(self, jobs_only: bool = False) -> None:
        groups.register_groups()
        setbase("1.3")
        setup_globals()
        self.loader = ConfigLoaderImpl(create_config_search_path(str(catalog.CONFIGS)))
        if jobs_only:
            self.loader.repository = _Remembering(self.loader.repository)
        self._kept: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
        """The primary config with ``overrides``."""
        cfg = self.loader.load_configuration("run", list(overrides), run_mode=RunMode.RUN, from_shell=False)
        if not with_hydra:
            with open_dict(cfg):
                cfg.pop("hydra", None)
        return cfg

    def with_keys(self, words: Sequence[str], keys: Sequence[str]) -> DictConfig:
        """Equal to calling it with ``words`` and ``keys``; the config of ``words`` is composed once and kept.

        ``keys``: overrides of which Hydra looks at none before it has put the config together, so no group choices.
        """
        parsed = OverridesParser.create().parse_overrides(list(keys))
        if any(override.package or self.loader.repository.group_exists(override.key_or_group) for override in parsed):
            return self([*words, *keys])
        if tuple(words) not in self._kept:
            self._kept[tuple(words)] = self(words)
        cfg = copy.deepcopy(self._kept[tuple(words)])
        self.loader._apply_overrides_to_config(parsed, cfg)
        return cfg


class _Remembering(ConfigRepository):
    """A repository that reads each file once and hands out copies."""

    def __init__(self, other: Any) -> None:
        self.sources = other.sources
        self._found: dict[Any, Any] = {}
        self._read: dict[str, Any] = {}

    def __deepcopy__(self, memo: Any) -> IConfigRepository:
        return self  # Hydra copies its repository for every composition

    def _find_object_source(self, config_path: str, object_type: ObjectType | None) -> Any:
        key = (config_path, object_type)
        if key not in self._found:
            self._found[key] = super()._find_object_source(config_path, object_type)
        return self._found[key]

    def load_config(self, config_path: str) -> Any:
        if config_path not in self._read:
            found = super().load_config(config_path=config_path)
            if found is not None and config_path.startswith("experiment/"):
                with open_dict(found.config):
                    found.config.pop("table", None)  # type: ignore[attr-defined]
            if found is not None and config_path.startswith("hydra/") and config_path != "hydra/config":
                found.config = OmegaConf.create()
            self._read[config_path] = found
        return copy.deepcopy(self._read[config_path])


# Every interpolation is parsed anew whenever it is resolved, and that is most of the time of resolving.
omegaconf.base.parse = lru_cache(maxsize=4096)(omegaconf.base.parse)


def compose_config(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """Compose the primary config with ``overrides``, outside of a Hydra application."""
    return Composer()(overrides, with_hydra)


def settle(cfg: DictConfig) -> DictConfig:
    """The config of a job: debug limits applied, paths absolute, Hydra's own part gone. Still unresolved.

    Raises:
        ConfigError: the config lacks what every job has, or a path is empty.
    """
    cfg = cfg.copy()
    OmegaConf.set_readonly(cfg, False)
    with open_dict(cfg):
        cfg.pop("hydra", None)
        if cfg.get("dataset") is None or cfg.get("method") is None or cfg.get("task") is None:
            raise ConfigError("a run needs task, dataset and method; `decathlon list` names them")
        if cfg.get("debug", False):
            _limit(cfg)
        for key in PATHS:
            if cfg[key] is None or not str(cfg[key]).strip():
                raise ConfigError(f"{key} is {'null' if cfg[key] is None else 'empty'}; it names a folder")
            cfg[key] = os.path.abspath(os.path.expanduser(str(cfg[key])))
    return cfg


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """A settled config as plain containers, every interpolation resolved."""
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _limit(cfg: DictConfig) -> None:
    """Debug: the task's own `smoke` values, then Lightning's limits: two epochs, or four steps, of two batches."""
    cfg.merge_with(cfg.smoke)
    loop = cfg.loop
    epochs, steps = loop.get("max_epochs"), loop.get("max_steps")
    if epochs is not None:
        loop.max_epochs = min(int(epochs), 2) if int(epochs) >= 0 else 2
    if steps is not None and int(steps) != 0:
        loop.max_steps = min(int(steps), 4) if int(steps) > 0 else 4
    for stage in ("train", "val", "test"):
        loop[f"limit_{stage}_batches"] = 2
