"""A table of a paper: which jobs it consists of, and what they have measured."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from decathlon.errors import ConfigError
from decathlon.runner import catalog
from decathlon.runner.compose import Composer
from decathlon.runner.job import Job
from decathlon.runner.planning import Planner, parse, value_of
from decathlon.runner.records import Folders

_MACHINE = {"trainer", "logger"}


@dataclass
class Layout:
    """How the jobs of an experiment are laid out as a table (the experiment's ``table`` section)."""

    title: str
    rows: list[str]
    columns: list[str]
    metrics: dict[str, dict[str, Any]]
    paper: dict[str, Any] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)
    tune: dict[str, Any] | None = None
    marks: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    @property
    def keys(self) -> list[str]:
        """The keys whose values name a cell: rows, then columns."""
        return self.rows + self.columns


@dataclass
class PlannedJob:
    """One job of the sweep and its place in the table."""

    job: Job
    values: dict[str, Any]


@dataclass
class Experiment:
    """A layout and the jobs of its sweep."""

    name: str
    layout: Layout
    swept: list[str]
    jobs: list[PlannedJob]
    narrowed: bool = False
    """Whether overrides have left cells out, of which claims may speak."""

    @property
    def cells(self) -> list["Cell"]:
        """The cell of each job."""
        return [tuple(canonical(planned.values[key]) for key in self.layout.keys) for planned in self.jobs]


def load(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read ``experiment/<name>.yaml`` and work out the jobs of its sweep, without running any.

    ``overrides`` are those given to ``run -m experiment=<name>``: fixed values or, with commas, other sweeps.
    """
    known = [full for task in catalog.tasks() for full in catalog.experiments(task)]
    if name not in known:
        raise ConfigError(f"{name} is no table; choose {', '.join(known)}")
    base = Composer()([f"experiment={name}"], with_hydra=True)
    if base.get("table") is None:
        raise ConfigError(f"experiment={name} has no table section")
    layout = _layout(name, OmegaConf.to_container(base.table, resolve=True))
    params = base.hydra.sweeper.params or {}
    # What a launcher is told says nothing of the jobs.
    overrides = [override for override in overrides if not override.lstrip("+~").startswith(("hydra/", "hydra."))]
    parsed = [parse(argument) for argument in [f"{key}={value}" for key, value in params.items()] + overrides]
    swept = list(dict.fromkeys(override.key_or_group for override in parsed))
    combinations = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    planner = Planner()
    try:
        jobs = [_plan(layout, planner.job([f"experiment={name}", *some]), swept) for some in combinations]
    except ConfigCompositionException as error:
        unknown = re.search(r"Could not override '([^']+)'", str(error))
        if unknown:
            raise ConfigError(f"{unknown.group(1)} is no key of the jobs of {name}") from error
        raise
    return Experiment(name, layout, swept, jobs, narrowed=bool(overrides))


def _layout(name: str, section: Any) -> Layout:
    try:
        layout = Layout(**section)
    except TypeError as error:
        raise ConfigError(f"experiment={name}: table section: {str(error).replace('Layout.__init__() ', '')}") from None
    if not layout.metrics:
        raise ConfigError(f"experiment={name}: table.metrics names no metric")
    return layout


def _plan(layout: Layout, job: Job, swept: Sequence[str]) -> PlannedJob:
    names = {"task": job.task, "dataset": job.dataset, "method": job.method}
    keys = {*layout.keys, "seed", *swept} | ({layout.tune["key"]} if layout.tune else set())
    return PlannedJob(job, {key: names.get(key, value_of(job.config, key)) for key in keys - _MACHINE})


def canonical(value: Any) -> str:
    """A value as a cell's name: 0.60 and 0.6, 1 and 1.0 are the same."""
    if isinstance(value, bool) or value is None:
        return str(value)
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)


Cell = tuple[str, ...]


@dataclass
class Results:
    """What the jobs of a table have measured.

    Attributes:
        values: cell → seed → metric → value, in the layout's units. Missing jobs are absent.
        expected: how many seeds a cell has. failed: how many jobs of it ended with an error.
        tuned: the setting that a cell is shown at.
        lost: cell → metric → seed → ``diverged`` or ``undefined``: finished jobs without that number.
        measured: cell → every metric that a job of it has, also those without a number.
        finished: the identities of the jobs that have a record.
    """

    values: dict[Cell, dict[Any, dict[str, float]]]
    expected: dict[Cell, int]
    failed: dict[Cell, int]
    tuned: dict[Cell, Any]
    lost: dict[Cell, dict[str, dict[Any, str]]] = field(default_factory=dict)
    measured: dict[Cell, set[str]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)


def gather(experiment: Experiment) -> Results:
    """Read the records of an experiment's jobs.

    Raises:
        ConfigError: the sweep varies a key that has no place in the table.
    """
    layout = experiment.layout
    tune = layout.tune
    inside = set(layout.keys) | {"seed"} | ({tune["key"]} if tune else set())
    stray = [key for key in experiment.swept if key not in inside and _varies(experiment, key)]
    if stray:
        raise ConfigError(f"{', '.join(stray)} is swept but is neither a row, a column, seed nor tuned in the table")
    runs: dict[Cell, dict[Any, dict[Any, dict[str, float | None]]]] = {}
    results = Results({}, {}, {}, {})
    counted: set[tuple[Cell, Any]] = set()
    folders = Folders()
    for planned, cell in zip(experiment.jobs, experiment.cells):
        seed = planned.values["seed"]
        setting = planned.values[tune["key"]] if tune else None
        if (cell, seed) not in counted:
            counted.add((cell, seed))
            results.expected[cell] = results.expected.get(cell, 0) + 1
        if planned.job.folder not in folders:
            continue
        record = planned.job.record()
        if record is not None:
            results.finished.add(planned.job.identity)
            runs.setdefault(cell, {}).setdefault(setting, {})[seed] = record["metrics"]
        elif planned.job.failure() is not None:
            results.failed[cell] = results.failed.get(cell, 0) + 1
    for cell, settings in runs.items():
        lost = {
            setting: {seed: lost_metrics(metrics, layout) for seed, metrics in seeds.items()}
            for setting, seeds in settings.items()
        }
        numbers = {
            setting: {
                seed: {
                    name: value
                    for name, value in metrics.items()
                    if name not in lost[setting][seed] and value is not None
                }
                for seed, metrics in seeds.items()
            }
            for setting, seeds in settings.items()
        }
        best = _best_setting(numbers, tune) if tune else None
        if tune:
            results.tuned[cell] = best
        report = tune.get("report_seeds") if tune else None
        results.measured[cell] = {name for metrics in settings[best].values() for name in metrics}
        results.values[cell] = {}
        for seed, metrics in numbers[best].items():
            if report is None or seed in report:
                results.values[cell][seed] = {
                    name: value * layout.metrics.get(name, {}).get("scale", 1) for name, value in metrics.items()
                }
                for name, why in lost[best][seed].items():
                    results.lost.setdefault(cell, {}).setdefault(name, {})[seed] = why
    return results


def lost_metrics(metrics: Mapping[str, float | None], layout: Layout) -> dict[str, str]:
    """The table's metrics for which a finished job has no number that may be shown, and why.

    A job has *diverged* when it says so (``test/diverged: 1``), or when the first of the table's metrics that it
    measures is not finite: then no number of it is a result. Another metric that is not finite is *undefined*.
    """
    measured = [name for name in layout.metrics if name in metrics]
    says = any(name.rpartition("/")[2] == "diverged" and value for name, value in metrics.items())
    if says or (measured and not _is_finite(metrics[measured[0]])):
        tuned = (layout.tune or {}).get("metric", [])
        more = [name for name in ([tuned] if isinstance(tuned, str) else tuned) if name in metrics]
        return {name: "diverged" for name in [*measured, *more] if name.rpartition("/")[2] != "diverged"}
    return {name: "undefined" for name in measured if not _is_finite(metrics[name])}


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _varies(experiment: Experiment, key: str) -> bool:
    return len({canonical(planned.values.get(key)) for planned in experiment.jobs}) > 1


def _best_setting(settings: Mapping[Any, Mapping[Any, Mapping[str, float]]], tune: Mapping[str, Any]) -> Any:
    """The setting with the best mean of the tuning metric over its seeds; settings with fewer seeds come last.

    ``metric`` is one name, with ``better`` beside it, or ``{name: lower or higher, ...}``: the first that was measured.
    """
    metrics = tune["metric"]
    if not isinstance(metrics, Mapping):
        metrics = {metrics: tune.get("better", "lower")}
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
