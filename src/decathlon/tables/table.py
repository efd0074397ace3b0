"""A table as it is shown: our numbers, the paper's, the difference, and the verdict on each claim."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decathlon.errors import ConfigError
from decathlon.runner.layout import Cell, Layout, canonical
from decathlon.tables import plan as experiments
from decathlon.tables.claims import Verdict, judge
from decathlon.tables.plan import Experiment, Results


@dataclass
class Entry:
    """One number of a table. ``mean`` is None when no job of it has finished."""

    row: tuple[str, ...]
    column: tuple[str, ...]
    metric: str
    mean: float | None
    std: float | None
    n: int
    expected: int
    failed: int
    paper: float | None
    tuned: Any
    mark: str
    best: bool = False
    diverged: int = 0
    undefined: int = 0

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper


@dataclass
class Table:
    """All entries of an experiment, in the order of its sweep, and its verdicts."""

    name: str
    layout: Layout
    metrics: list[str]
    rows: list[tuple[str, ...]]
    columns: list[tuple[tuple[str, ...], str]]
    entries: dict[tuple[tuple[str, ...], tuple[str, ...], str], Entry]
    verdicts: list[Verdict]
    jobs: int
    finished: int


def make_table(name: str, overrides: Sequence[str] = (), metrics: Sequence[str] = ()) -> Table:
    """Read the finished jobs of an experiment and lay them out.

    Args:
        overrides: as given to ``run -m experiment=<name>``.
        metrics: show these only; all by default. The claims do not depend on it.

    Raises:
        ConfigError: a metric is not one of the table's.
    """
    return lay_out(experiments.load(name, overrides), metrics)


def lay_out(experiment: Experiment, metrics: Sequence[str] = ()) -> Table:
    """As :func:`make_table`, of an experiment that is loaded."""
    layout, name = experiment.layout, experiment.name
    for metric in metrics:
        if metric not in layout.metrics:
            raise ConfigError(f"{metric} is no metric of {name}; choose {', '.join(layout.metrics)}")
    shown = list(metrics) or list(layout.metrics)
    results = experiments.gather(experiment)
    cells = list(dict.fromkeys(experiment.cells))
    split = len(layout.rows)
    rows = list(dict.fromkeys(cell[:split] for cell in cells))
    column_keys = list(dict.fromkeys(cell[split:] for cell in cells))
    columns = [
        (column, metric)
        for column in column_keys
        for metric in shown
        if _applies(results, cells, column, metric, layout)
    ]
    entries = {
        (cell[:split], cell[split:], metric): _entry(experiment, results, cell, split, metric)
        for cell in cells
        for metric in shown
    }
    for column, metric in columns:
        _mark_best([entries[row, column, metric] for row in rows if (row, column, metric) in entries], layout)
    jobs, finished = len({planned.job.identity for planned in experiment.jobs}), len(results.finished)
    return Table(name, layout, shown, rows, columns, entries, judge(experiment, results), jobs, finished)


def _applies(results: Results, cells: list[Cell], column: tuple[str, ...], metric: str, layout: Layout) -> bool:
    """Whether jobs of a column measure a metric: by their records, and before there are any by the metric's ``only``.

    ``only: {dataset: [a, b]}`` beside a metric's label names the values of a row's or column's key that have it.
    """
    split = len(layout.rows)
    mine = [cell for cell in cells if cell[split:] == column]
    measured = [results.measured[cell] for cell in mine if cell in results.measured]
    if measured:
        return any(metric in names for names in measured)
    only = layout.metrics[metric].get("only") or {}
    allowed = {key: {canonical(value) for value in values} for key, values in only.items()}
    return any(all(dict(zip(layout.keys, cell)).get(key) in values for key, values in allowed.items()) for cell in mine)


def _entry(experiment: Experiment, results: Results, cell: Cell, split: int, metric: str) -> Entry:
    layout = experiment.layout
    runs = results.values.get(cell, {})
    values = [metrics[metric] for metrics in runs.values() if metric in metrics]
    mean = sum(values) / len(values) if values else None
    lost = list(results.lost.get(cell, {}).get(metric, {}).values())
    std = None
    if mean is not None and len(values) > 1:
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Entry(
        cell[:split], cell[split:], metric, mean, std, len(values), results.expected.get(cell, 0),
        results.failed.get(cell, 0), _paper(layout, cell, metric), results.tuned.get(cell), _mark(layout, runs, metric),
        diverged=lost.count("diverged"), undefined=lost.count("undefined"),
    )  # fmt: skip


def _paper(layout: Layout, cell: Cell, metric: str) -> float | None:
    """The paper's number for a cell: ``paper`` is nested by rows, columns and, with several metrics, the metric."""
    node: Any = layout.paper
    path = [*cell, metric] if len(layout.metrics) > 1 else list(cell)
    for step in path:
        if not isinstance(node, dict):
            break  # a number given for a whole row holds in each of its columns
        node = {canonical(key): value for key, value in node.items()}.get(step)
    return float(node) if isinstance(node, (int, float)) else None


def _mark(layout: Layout, runs: dict[Any, dict[str, float]], metric: str) -> str:
    """The marks of a cell, for example a revenue above its bound."""
    found = []
    for mark in layout.marks:
        pairs = [
            (m[mark["metric"]], m[mark["above"]]) for m in runs.values() if {mark["metric"], mark["above"]} <= set(m)
        ]
        if mark["metric"] == metric and pairs and sum(a - b for a, b in pairs) > 0:
            found.append(str(mark["mark"]))
    return ", ".join(found)


def _mark_best(entries: list[Entry], layout: Layout) -> None:
    measured = [entry for entry in entries if entry.mean is not None]
    better = layout.metrics[entries[0].metric].get("better") if entries else None
    if len(measured) < 2 or better not in ("higher", "lower"):
        return
    pick = max if better == "higher" else min
    best = pick(entry.mean for entry in measured if entry.mean is not None)
    for entry in measured:
        entry.best = entry.mean == best
