"""Hydra's and OmegaConf's errors as one line that names the fault and the choices."""

import difflib
import re
from collections.abc import Sequence

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from decathlon.runner import catalog

EXTRAS = {
    "joblib": "joblib", "ray": "ray", "submitit_local": "submitit", "submitit_slurm": "submitit", "slurm": "submitit",
}  # fmt: skip
COMPOSITION = (HydraException, OmegaConfBaseException, yaml.YAMLError)
"""What goes wrong while configs are read and composed: a user's mistake, which :func:`explain` puts in one line."""
SWEEPERS = {"optuna": "hydra-optuna-sweeper", "ax": "hydra-ax-sweeper", "nevergrad": "hydra-nevergrad-sweeper"}


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """One line for an error of composition; ``arguments`` are the command's overrides."""
    text = _whole_text(error)
    broken = _yaml_error(error)
    if broken:
        return broken
    task = task_of(arguments)
    missing = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if missing:
        return _missing_option(missing.group(1), task)
    missing = re.search(r"Error resolving interpolation '\$\{task\}", text)
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if unknown:
        return _unknown_key(_full_key(unknown.group(1), text, arguments), task, arguments)
    present = re.search(r"Could not append to config. An item is already at '([^']+)'", text)
    if present:
        return f"{present.group(1)} is a key already; write {present.group(1)}=... without the plus sign"
    chosen = re.search(r"Interpolation key '([^']+)\.([^'.]+)' not found", text)
    if chosen:
        choice = _missing_choice(chosen.group(1), chosen.group(2), task, arguments)
        if choice:
            return choice
    sweep = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if sweep:
        return f"{sweep.group(1)} has several values: use run -m for a sweep, or quote the value"
    return text.splitlines()[0].strip()


def task_of(arguments: Sequence[str]) -> str:
    """The task that the overrides choose, by itself or through an experiment."""
    chosen = catalog.default_task()
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.strip("+") == "task":
            chosen = value.split(",")[0]
        elif key.strip("+") == "experiment":
            chosen = value.split("/")[0]
    return chosen


def _yaml_error(error: BaseException | None) -> str:
    """The file and line of a config that is no YAML."""
    while error is not None:
        mark = getattr(error, "problem_mark", None)
        if isinstance(error, yaml.YAMLError) and mark is not None:
            return f"{mark.name} line {mark.line + 1} is no YAML: {getattr(error, 'problem', None) or error}"
        error = error.__cause__ or error.__context__
    return ""


def _whole_text(error: BaseException | None) -> str:
    parts = []
    while error is not None:
        parts.append(str(error))
        error = error.__cause__
    return "\n".join(parts)


def _missing_option(path: str, task: str) -> str:
    group, _, option = path.rpartition("/")
    if group == "task":
        return f"task={option} is no task; choose {', '.join(catalog.tasks())}"
    for name, folder in catalog.PER_TASK.items():
        if group == name or group.startswith(f"{folder}/"):
            owner = group.partition("/")[2] or task
            choices = ", ".join(catalog.names(f"{folder}/{owner}"))
            if owner not in catalog.tasks():
                return f"task={owner} is no task; choose {', '.join(catalog.tasks())}"
            return f"{name}={option} is no {name} of task={owner}; choose {choices}"
    if group.startswith("experiment"):
        owner = group.partition("/")[2]
        known = catalog.experiments(owner) or [name for task in catalog.tasks() for name in catalog.experiments(task)]
        return f"experiment={owner + '/' if owner else ''}{option} is no experiment; choose {', '.join(known)}"
    if group == "hydra/launcher" and option in EXTRAS:
        return f"hydra/launcher={option} is not installed: pip install 'decathlon[{EXTRAS[option]}]'"
    if group == "hydra/sweeper" and option in SWEEPERS:
        return f"hydra/sweeper={option} is not installed: pip install {SWEEPERS[option]}"
    choices = ", ".join(catalog.names(group))
    return f"{group}={option} is no {group}" + (f"; choose {choices}" if choices else "")


def _missing_choice(prefix: str, value: str, task: str, arguments: Sequence[str]) -> str:
    """``key=value`` where the config looks for ``prefix.value``: with the values that there are."""
    key = next((name for name, _, given in (text.partition("=") for text in arguments) if given == value), None)
    choices = [name.removeprefix(f"{prefix}.") for name in known_keys(task, arguments) if name.startswith(f"{prefix}.")]
    if key is None or not choices:
        return ""
    return f"{key}={value} is unknown; choose {', '.join(name for name in choices if '.' not in name)}"


def _full_key(key: str, text: str, arguments: Sequence[str]) -> str:
    """The override that a struct error is about: OmegaConf may name only its last part."""
    full = re.search(r"full_key: (\S+)", text)
    if full:
        return full.group(1)
    for argument in arguments:
        name = argument.partition("=")[0]
        if name == key or name.endswith("." + key):
            return name
    return key


def _unknown_key(key: str, task: str, arguments: Sequence[str]) -> str:
    if key == "debug":
        return "debug is set with a plus sign: +debug=true"
    known = known_keys(task, arguments)
    inside = [name for name in known if name.endswith("." + key)]
    close = inside or difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else "; `run --help` shows all"
    return f"{key} is no key of this run of task={task}{hint}"


def known_keys(task: str, arguments: Sequence[str]) -> list[str]:
    """Dotted keys of the config that the group choices among ``arguments`` give."""
    from decathlon.runner.compose import compose_config

    groups = {"task", "dataset", "method", "trainer", "logger", "experiment"}
    chosen = [argument for argument in arguments if argument.partition("=")[0] in groups and "," not in argument]
    try:
        cfg = compose_config(chosen)
    except COMPOSITION:
        return []
    from omegaconf import OmegaConf

    keys: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                keys.append(f"{prefix}{name}")
                walk(value, f"{prefix}{name}.")

    walk(OmegaConf.to_container(cfg, resolve=False), "")
    skip = ("table.", "smoke.", "hydra.")
    return [key for key in keys if not key.startswith(skip)]
