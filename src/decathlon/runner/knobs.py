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
from decathlon.runner.job import DESCRIPTIVE, NOT_IDENTITY, Job
from decathlon.runner.messages import explain
from decathlon.runner.records import Found

_GROUPS = ("task", "dataset", "method")
_NAMES = {f"{group}.name" for group in _GROUPS}
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
            if prefix and (key in DESCRIPTIVE or key == "ignores"):
                continue
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
    if value is None or type(value) is bool:
        return "null" if value is None else "true" if value else "false"
    return json.dumps(value, default=str)


def settings(job: Found) -> dict[str, str]:
    """All settings of a job as text, by dotted key; ``task``, ``dataset``, ``method`` and ``seed`` first."""
    own = {group: getattr(job, group) for group in _GROUPS}
    return {**own, "seed": "", **{key: text(value) for key, value in flat(job.config).items()}, **own}


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


class Commands:
    """Commands that make jobs again, for one job or for many.

    The command is composed and has the job's identity. Of many jobs of one task, dataset and method that differ from
    the defaults in the same keys only the first is composed; the others take its keys with their own values.
    """

    def __init__(self) -> None:
        self._compose: Composer | None = None
        self._bases: dict[tuple[Any, ...], Job] = {}
        self._recipes: dict[tuple[Any, ...], tuple[list[str] | None, list[str]]] = {}

    def of(self, job: Found) -> tuple[dict[str, str], list[str], str]:
        """What differs from the defaults of the job's task, dataset and method, and the command that makes it again.

        Returns:
            The differing settings, the command's words (none where the configs of today do not lead to this job), and
            one line where that is so.
        """
        try:
            return self._of(job)
        except (HydraException, OmegaConfBaseException) as error:
            said = explain(error, [f"{group}={getattr(job, group)}" for group in _GROUPS])
            return {}, [], f"no command of today makes this job: {said}"
        except (UserError, AssertionError, KeyError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            return {}, [], f"no command of today makes this job: {said}"

    def _of(self, job: Found) -> tuple[dict[str, str], list[str], str]:
        wanted = flat(job.config)
        words = [f"{group}={getattr(job, group)}" for group in _GROUPS]
        if wanted.get("debug") is True:
            words.append("+debug=true")
        base = self._job(words)
        differ = frozenset(_differing(wanted, flat(base.config)))
        kind = (*words, differ)
        if kind not in self._recipes:
            self._recipes[kind] = self._recipe(job, wanted, words)
        keys, shown = self._recipes[kind]
        changed = {key: text(wanted[key]) if key in wanted else "(none)" for key in shown}
        if keys is None:
            return changed, [], "the configs have changed since: no command of today makes this job with its id"
        return changed, ["run", *words, *(_word(key, wanted) for key in keys)], ""

    def _job(self, words: list[str]) -> Job:
        key = tuple(words)
        if key not in self._bases:
            self._compose = self._compose or Composer(jobs_only=True)
            self._bases[key] = Job.of(self._compose(words))
        return self._bases[key]

    def _recipe(self, job: Found, wanted: dict[str, Any], words: list[str]) -> tuple[list[str] | None, list[str]]:
        """The keys to set, with their signs, so that the job has its identity (None: there are none); the bare keys."""
        set_keys: list[str] = []
        changed: list[str] = []
        for _ in range(5):
            composed = self._job([*words, *(_word(key, wanted) for key in set_keys)])
            if composed.identity == job.identity:
                return set_keys, changed
            now = flat(composed.config)
            keys = [key for key in _differing(wanted, now) if key not in changed]
            if not keys:
                break
            least = min(key.count(".") for key in keys)  # what lies deeper is mostly an interpolation of it
            for key in [key for key in keys if key.count(".") == least]:
                changed.append(key)
                set_keys.append(f"~{key}" if key not in wanted else key if key in now else f"++{key}")
        return None, changed


def _differing(wanted: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [key for key in {**wanted, **now} if wanted.get(key, _ABSENT) != now.get(key, _ABSENT)]


def _word(key: str, wanted: dict[str, Any]) -> str:
    """An override of a key that may begin with its sign."""
    return key if key.startswith("~") else f"{key}={override(wanted[key.removeprefix('++')])}"


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
