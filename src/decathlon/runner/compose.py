"""From overrides to the config of a job."""

import os
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from decathlon.errors import ConfigError
from decathlon.runner import catalog

PATHS = ("data_dir", "results_dir")


def compose_config(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """Compose the primary config with ``overrides``, outside of a Hydra application."""
    catalog.register_groups()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(catalog.CONFIGS), version_base="1.3"):
        return compose("run", overrides=list(overrides), return_hydra_config=with_hydra)


def settle(cfg: DictConfig) -> DictConfig:
    """The config of a job: debug limits applied, paths absolute, Hydra's own part gone. Still unresolved."""
    cfg = cfg.copy()
    OmegaConf.set_readonly(cfg, False)
    with open_dict(cfg):
        cfg.pop("hydra", None)
        if cfg.get("dataset") is None or cfg.get("method") is None or cfg.get("task") is None:
            raise ConfigError("a run needs task, dataset and method; `decathlon list` names them")
        if cfg.get("debug", False):
            _limit(cfg)
        for key in PATHS:
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
