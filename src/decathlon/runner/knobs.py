"""What distinguishes jobs: the settings in which they differ. Imports nothing of Hydra: a list is there sooner."""

import json
from collections.abc import Sequence
from typing import Any

from decathlon.runner.keys import DESCRIPTIVE, NOT_IDENTITY
from decathlon.runner.records import Found

GROUPS = ("task", "dataset", "method")
_NAMES = {f"{group}.name" for group in GROUPS}
ABSENT = "·"


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """A nested config as dotted keys; what cannot change a job's result is left out. Lists stay whole."""
    ignored = {
        key for group in ("task", "method") if isinstance(part := config.get(group), dict)
        for key in part.get("ignores") or []
    }  # fmt: skip
    places = [place for key in ("data_dir", "results_dir") if (place := config.get(key)) and isinstance(place, str)]
    found: dict[str, Any] = {}

    def walk(node: dict[Any, Any], prefix: str) -> None:
        for key, value in node.items():
            if prefix and (key in DESCRIPTIVE or key == "ignores"):
                continue
            if type(value) is dict and value:
                walk(value, f"{prefix}{key}.")
            elif value not in places:
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
    own = {group: getattr(job, group) for group in GROUPS}
    return {**own, "seed": "", **{key: text(value) for key, value in flat(job.config).items()}, **own}


def differing(rows: Sequence[dict[str, str]]) -> list[str]:
    """The keys in which jobs differ, of the :func:`settings` of each: those that name them, and the knobs.

    A knob is a setting that differs between jobs of one task, dataset and method; one at the top of the config also
    between the methods that have it. What says the same as another key (an interpolation of it, a part's seed that
    is the job's) is left out.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    kinds = [tuple(row[group] for group in GROUPS) for row in rows]
    chosen: list[str] = []
    for key in sorted(keys, key=lambda key: (key not in GROUPS, key != "seed", key.count("."))):
        values = [row.get(key, ABSENT) for row in rows]
        if values.count(values[0]) == len(values) or not (key in GROUPS or _is_knob(key, values, kinds)):
            continue
        same = any(
            all(other in (value, ABSENT) for value, other in zip(values, (row.get(one, ABSENT) for row in rows)))
            for one in chosen
        )
        if not (same and ("." in key or key.endswith("seed"))):
            chosen.append(key)
    return chosen


def _is_knob(key: str, values: Sequence[str], kinds: Sequence[tuple[str, ...]]) -> bool:
    within: dict[tuple[str, ...], str] = {}
    between: dict[tuple[str, ...], str] = {}
    for kind, value in zip(kinds, values):
        if within.setdefault(kind, value) != value:
            return True
        has = "." not in key and value not in (ABSENT, "null")
        if has and between.setdefault(kind[:2], value) != value:
            return True
    return False
