"""Early checks of what was typed: a number where the default is a number."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from decathlon import catalog
from decathlon.errors import ConfigError

_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def check_values(overrides: Sequence[str], cfg: DictConfig) -> None:
    """Compare the type of each overridden knob with its default's; raise ConfigError, in one line, if they differ."""
    if isinstance(cfg.seed, int) and not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed} is not a whole number from 0 to {2**32 - 1}")
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


def _defaults(cfg: DictConfig) -> dict[str, Any]:
    """Scalar knobs of the primary config, the task and the method, as written in their files."""
    found: dict[str, Any] = dict(catalog.read("run"))
    task, method = cfg.task.name, cfg.method.name
    found.update(catalog.read(f"task/{task}"))
    for key, value in catalog.read(f"methods/{task}/{method}").items():
        found[f"method.{key}"] = value
    return found
