"""What distinguishes jobs: the settings in which they differ from each other, and from the defaults."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from decathlon.errors import UserError
from decathlon.runner.compose import Composer
from decathlon.runner.job import NOT_IDENTITY, Job
from decathlon.runner.records import Found

_GROUPS = ("task", "dataset", "method")
_NAMES = {f"{group}.{key}" for group in _GROUPS for key in ("name", "title", "paper", "embedded")}
_ABSENT = "·"


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """A nested config as dotted keys; what cannot change a job's result is left out. Lists stay whole."""
    ignored = {
        key for group in ("task", "method") if isinstance(part := config.get(group), dict)
        for key in part.get("ignores") or []
    }  # fmt: skip
    found: dict[str, Any] = {}

    def walk(node: dict[Any, Any], prefix: str) -> None:
        for key, value in node.items():
            if type(value) is dict and value:
                walk(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    walk({key: value for key, value in config.items() if key not in NOT_IDENTITY and key not in ignored}, "")
    for name in _NAMES:
        found.pop(name, None)
    return found


def text(value: Any) -> str:
    """A setting as it is shown: 1.0 is 1, a list as JSON."""
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return json.dumps(value, default=str)


def settings(job: Found) -> dict[str, str]:
    """All settings of a job as text, by dotted key; ``task``, ``dataset``, ``method`` and ``seed`` first."""
    own = {group: getattr(job, group) for group in _GROUPS}
    return {**own, "seed": "", **{key: text(value) for key, value in flat(job.config).items()}}


def differing(rows: Sequence[dict[str, str]]) -> list[str]:
    """The keys in which jobs differ, of the :func:`settings` of each: those that name them, and the knobs.

    A knob is a setting that differs between jobs of one task, dataset and method; one at the top of the config also
    between methods. What says the same as another key (an interpolation of it) is left out.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    kinds = [tuple(row[group] for group in _GROUPS) for row in rows]
    chosen: list[str] = []
    for key in sorted(keys, key=lambda key: (key not in _GROUPS, key != "seed", key.count("."))):
        values = [row.get(key, _ABSENT) for row in rows]
        if values.count(values[0]) == len(values):
            continue
        first: dict[Any, str] = {}
        near = kinds if "." in key else [kind[:2] for kind in kinds]
        if key not in _GROUPS and all(first.setdefault(kind, value) == value for kind, value in zip(near, values)):
            continue
        same = any(
            all(other in (value, _ABSENT) for value, other in zip(values, (row.get(one, _ABSENT) for row in rows)))
            for one in chosen
        )
        if not ("." in key and same):
            chosen.append(key)
    return chosen


def from_defaults(job: Found) -> tuple[dict[str, str], list[str], str]:
    """What differs from the defaults of the job's task, dataset and method, and the command that makes it again.

    Returns:
        The differing settings (``+debug`` among them), the command's words (none where the configs of today do not
        lead to this job), and one line where that is so.
    """
    try:
        words, changed = _reproduce(job)
    except (UserError, HydraException, OmegaConfBaseException, AssertionError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return {}, [], f"no command of today makes this job: {said}"
    if words is None:
        return changed, [], "the configs have changed since: no command of today makes this job with its id"
    return changed, ["run", *words], ""


def _reproduce(job: Found) -> tuple[list[str] | None, dict[str, str]]:
    """Overrides that compose to the job's identity, or None; and what they set."""
    compose = Composer(jobs_only=True)
    words = [f"{group}={getattr(job, group)}" for group in _GROUPS]
    wanted = flat(job.config)
    if wanted.get("debug") is True:
        words.append("+debug=true")
    changed: dict[str, str] = {}
    for _ in range(5):
        composed = Job.of(compose(words))
        if composed.identity == job.identity:
            return words, changed
        now = flat(composed.config)
        keys = [key for key in {**wanted, **now} if wanted.get(key, _ABSENT) != now.get(key, _ABSENT)]
        keys = [key for key in keys if key not in changed]
        if not keys:
            return None, changed
        least = min(key.count(".") for key in keys)
        for key in [key for key in keys if key.count(".") == least]:
            changed[key] = text(wanted[key]) if key in wanted else "(none)"
            if key not in wanted:
                words.append(f"~{key}")
            else:
                words.append(f"{'' if key in now else '++'}{key}={override(wanted[key])}")
    return None, changed


def override(value: Any) -> str:
    """A value in Hydra's grammar, quoted where it must be."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(override, value)) + "]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_/.][\w./-]*", value) and value.lower() not in (
            "null",
            "true",
            "false",
            "nan",
            "inf",
        )
        if plain:
            return value
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)
    )


def shell(words: Sequence[str]) -> str:
    """A command as a shell reads it."""
    return " ".join(shlex.quote(word) if re.search(r"[^\w@%+=:,./~-]", word) else word for word in words)
