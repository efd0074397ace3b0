"""Early checks of what was typed: a number where the default is a number."""

from collections.abc import Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from decathlon.errors import ConfigError
from decathlon.runner import catalog
from decathlon.runner.planning import parse

MACHINE = {
    "accelerator", "devices", "strategy", "num_nodes", "sync_batchnorm", "enable_progress_bar", "deterministic",
    "benchmark", "use_distributed_sampler", "profiler", "inference_mode",
}  # fmt: skip
"""Arguments of Lightning's Trainer that may stand in ``trainer``: it is no part of a job's identity."""
_NEEDED = ("task", "dataset", "method", "seed", "data_dir", "results_dir", "trainer")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def check_overrides(overrides: Sequence[str]) -> None:
    """Check what was typed before anything is composed: each a ``key=value``, and a value for what every run has.

    Raises:
        ConfigError: in one line, the first that is wrong.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        try:
            override = parse(text)
        except HydraException as error:
            if not equals:
                raise ConfigError(f"{text} is no key=value; `run --help` shows what can be set") from error
            odd = next((character for character in value if character in "~#\\{}[]()<>%:,@^&*|?!`;$"), None)
            why = f"{odd} has a meaning of its own here" if odd else "it has characters with a meaning of their own"
            raise ConfigError(f"{key}={value} cannot be read: {why}; quote the value: {key}='\"{value}\"'") from error
        if override.is_delete() or override.is_sweep_override():
            continue
        name, found = override.key_or_group, override.value()
        if name in _NEEDED and found in (None, ""):
            choices = f"; choose {', '.join(catalog.tasks())}" if name == "task" else ""
            raise ConfigError(f"{name} is {'null' if found is None else 'empty'}, and every run has one{choices}")


def check_values(overrides: Sequence[str], cfg: DictConfig) -> None:
    """Check the ranges of the runner's own keys, and the type of each overridden knob against its default's.

    Raises:
        ConfigError: in one line, the first that is wrong.
    """
    _check_limits(cfg)
    defaults = _defaults(cfg)
    for override in map(parse, overrides):
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
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed} is not a whole number from 0 to {2**32 - 1}")
    if not isinstance(cfg.trainer, DictConfig):
        raise ConfigError(f"trainer={cfg.trainer} is no trainer; choose {', '.join(catalog.names('trainer'))}")
    every = cfg.checkpoint.get("every_n_steps")
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ConfigError(f"checkpoint.every_n_steps={every} is not a whole number from 1 on")
    if not isinstance(cfg.force, bool):
        raise ConfigError(f"force={cfg.force} is not true or false")
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
    found.update(catalog.read(f"task/{task}") if task in catalog.tasks() else {})
    if method in catalog.methods(task):  # a user may give a method another name
        for key, value in catalog.read(f"methods/{task}/{method}").items():
            found[f"method.{key}"] = value
    return found
