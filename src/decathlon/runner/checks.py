"""Early checks of what was typed: a number where the default is a number."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from decathlon.errors import ConfigError
from decathlon.runner import catalog

MACHINE = {
    "accelerator", "devices", "strategy", "num_nodes", "sync_batchnorm", "enable_progress_bar", "deterministic",
    "benchmark", "use_distributed_sampler", "profiler", "inference_mode",
}  # fmt: skip
"""Arguments of Lightning's Trainer that may stand in ``trainer``: it is no part of a job's identity."""
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def check_values(overrides: Sequence[str], cfg: DictConfig) -> None:
    """Check the ranges of the runner's own keys, and the type of each overridden knob against its default's.

    Raises:
        ConfigError: in one line, the first that is wrong.
    """
    _check_limits(cfg)
    defaults = _defaults(cfg)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key not in defaults:
            continue
        default, value = defaults[key], OmegaConf.select(cfg, key)
        if default is None or value is None or isinstance(default, (dict, list)):
            continue
        if isinstance(default, str) and "${" in default:
            default = OmegaConf.select(cfg, default[2:-1])
        kind = type(default)
        if kind not in _KINDS or (isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))):
            continue
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if kind is int and isinstance(value, float) and value.is_integer():
            continue
        raise ConfigError(f"{key}={value} is not {_KINDS[kind]} (default {default})")


def _check_limits(cfg: DictConfig) -> None:
    """The keys that every run has: seed, trainer, threads, and the length of the training."""
    if isinstance(cfg.seed, int) and not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed} is not a whole number from 0 to {2**32 - 1}")
    stray = sorted(set(cfg.trainer) - MACHINE)
    if stray:
        raise ConfigError(
            f"trainer.{stray[0]} does not say on what machine a job runs; "
            f"what can change a result is set as +loop.{stray[0]}"
        )
    threads = cfg.threads
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ConfigError(f"threads={threads} is not a whole number from 1 on")
    for key in ("max_epochs", "max_steps"):
        limit = cfg.loop.get(key)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise ConfigError(f"loop.{key}={limit} is not a whole number")
    if (cfg.loop.get("max_epochs") or 0) < 0 and (cfg.loop.get("max_steps") or -1) < 0:
        raise ConfigError("loop.max_epochs=-1 without loop.max_steps would train for ever")


def _defaults(cfg: DictConfig) -> dict[str, Any]:
    """Scalar knobs of the primary config, the task and the method, as written in their files."""
    found: dict[str, Any] = dict(catalog.read("run"))
    task, method = cfg.task.name, cfg.method.name
    found.update(catalog.read(f"task/{task}"))
    for key, value in catalog.read(f"methods/{task}/{method}").items():
        found[f"method.{key}"] = value
    return found
