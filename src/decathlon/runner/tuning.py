"""Each cell of a table at its best setting: which one that is, and which jobs are then not needed.

``tune: {key: lr, metric: val/loss, seeds: [3], report_seeds: [0, 1, 2]}`` in a table finds the ``lr`` of each cell on
seed 3 and shows the other seeds there. Their jobs at another ``lr`` would never be read, so a sweep leaves them out.
"""

import math
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

from decathlon.runner.job import Job
from decathlon.runner.layout import Layout, canonical, values_of


class Need(Enum):
    """Whether a table reads a job: yes; yes or another in its place, as tuning will show; no."""

    YES = auto()
    LATER = auto()
    NO = auto()


def is_tuned_apart(layout: Layout) -> bool:
    """Whether settings are chosen on other seeds than are shown."""
    return {"seeds", "report_seeds"} <= (layout.tune or {}).keys()


def needs(jobs: Sequence[Job], layout: Layout) -> list[Need]:
    """Of each job of a sweep, whether the table needs it, by the records that there are.

    While the tuning jobs of a cell are not finished, each of its other seeds has one job that is needed LATER: it
    stands for the one whose setting is not known yet.
    """
    tune = layout.tune or {}
    if not is_tuned_apart(layout):
        return [Need.YES] * len(jobs)
    cells: dict[tuple[str, ...], list[tuple[int, Any, Any]]] = {}
    for number, job in enumerate(jobs):
        values = values_of(job, [*layout.keys, "seed", tune["key"]])
        cell = tuple(canonical(values[key]) for key in layout.keys)
        cells.setdefault(cell, []).append((number, values["seed"], values[tune["key"]]))
    found = [Need.YES] * len(jobs)
    for places in cells.values():
        tuning = [place for place in places if place[1] in tune["seeds"]]
        if not tuning:
            continue  # the sweep was narrowed to other seeds
        measured: dict[Any, dict[Any, dict[str, float]]] = {}
        for number, seed, setting in tuning:
            record = jobs[number].record()
            if record is not None:
                measured.setdefault(setting, {})[seed] = numbers(record["metrics"], layout)
        decided = sum(map(len, measured.values())) == len(tuning)
        chosen = best_setting(measured, tune) if decided else tuning[0][2]
        for number, seed, setting in places:
            if seed not in tune["seeds"]:
                found[number] = Need.NO if setting != chosen else Need.YES if decided else Need.LATER
    return found


def best_setting(settings: Mapping[Any, Mapping[Any, Mapping[str, float]]], tune: Mapping[str, Any]) -> Any:
    """The setting with the best mean of the tuning metric over its seeds; settings with fewer seeds come last.

    ``metric`` is one name, with ``better`` beside it, or ``{name: lower or higher, ...}``: the first that was measured.
    """
    metrics = _metrics(tune)
    measured = {name for runs in settings.values() for record in runs.values() for name in record}
    metric = next((name for name in metrics if name in measured), next(iter(metrics)))
    sign = 1.0 if metrics[metric] == "lower" else -1.0
    only = tune.get("seeds")

    def rank(setting: Any) -> tuple[int, float]:
        runs = {seed: record for seed, record in settings[setting].items() if only is None or seed in only}
        values = [record[metric] for record in runs.values() if metric in record]
        diverged = len(runs) - len(values)
        mean = sum(values) / len(values) if values else float("inf") * sign
        return diverged - len(values), sign * mean

    return min(settings, key=rank)


def numbers(metrics: Mapping[str, float | None], layout: Layout) -> dict[str, float]:
    """The metrics of a finished job that count: those with a number, without what it has lost."""
    lost = lost_metrics(metrics, layout)
    return {name: value for name, value in metrics.items() if name not in lost and value is not None}


def lost_metrics(metrics: Mapping[str, float | None], layout: Layout) -> dict[str, str]:
    """The table's metrics for which a finished job has no number that may be shown, and why.

    A job has *diverged* when it says so (``test/diverged: 1``), or when the first of the table's metrics that it
    measures is not finite: then no number of it is a result. Another metric that is not finite is *undefined*.
    """
    measured = [name for name in layout.metrics if name in metrics]
    says = any(name.rpartition("/")[2] == "diverged" and value for name, value in metrics.items())
    if says or (measured and not _is_finite(metrics[measured[0]])):
        more = [name for name in _metrics(layout.tune or {"metric": {}}) if name in metrics]
        return {name: "diverged" for name in [*measured, *more] if name.rpartition("/")[2] != "diverged"}
    return {name: "undefined" for name in measured if not _is_finite(metrics[name])}


def _metrics(tune: Mapping[str, Any]) -> Mapping[str, str]:
    metric = tune["metric"]
    return metric if isinstance(metric, Mapping) else {metric: tune.get("better", "lower")}


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
