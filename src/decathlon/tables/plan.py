"""A table of a paper: which jobs it consists of, and what they have measured."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.errors import ConfigCompositionException

from decathlon.errors import ConfigError
from decathlon.runner import catalog
from decathlon.runner.compose import Composer
from decathlon.runner.job import Job
from decathlon.runner.layout import Cell, Layout, canonical, values_of
from decathlon.runner.planning import Planner, parse
from decathlon.runner.records import Folders
from decathlon.runner.tuning import Need, best_setting, lost_metrics, needs, numbers

_MACHINE = {"trainer", "logger"}


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
    def cells(self) -> list[Cell]:
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
    layout = Layout.of(base, name)
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
    needed = needs([planned.job for planned in jobs], layout)
    jobs = [planned for planned, need in zip(jobs, needed) if need is not Need.NO]
    return Experiment(name, layout, swept, jobs, narrowed=bool(overrides))


def _plan(layout: Layout, job: Job, swept: Sequence[str]) -> PlannedJob:
    keys = {*layout.keys, "seed", *swept} | ({layout.tune["key"]} if layout.tune else set())
    return PlannedJob(job, values_of(job, sorted(keys - _MACHINE)))


@dataclass
class Results:
    """What the jobs of a table have measured.

    Attributes:
        values: cell → seed → metric → value, in the layout's units. Missing jobs are absent.
        expected: how many seeds a cell is to show. failed: how many jobs of it ended with an error.
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
    report = tune.get("report_seeds") if tune else None
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
        if (cell, seed) not in counted and (report is None or seed in report):
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
        counts = {
            setting: {seed: numbers(metrics, layout) for seed, metrics in seeds.items()}
            for setting, seeds in settings.items()
        }
        best = best_setting(counts, tune) if tune else None
        if tune:
            results.tuned[cell] = best
        results.measured[cell] = {name for metrics in settings[best].values() for name in metrics}
        results.values[cell] = {}
        for seed, metrics in counts[best].items():
            if report is None or seed in report:
                results.values[cell][seed] = {
                    name: value * layout.metrics.get(name, {}).get("scale", 1) for name, value in metrics.items()
                }
                for name, why in lost_metrics(settings[best][seed], layout).items():
                    results.lost.setdefault(cell, {}).setdefault(name, {})[seed] = why
    return results


def _varies(experiment: Experiment, key: str) -> bool:
    return len({canonical(planned.values.get(key)) for planned in experiment.jobs}) > 1
