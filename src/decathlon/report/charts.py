"""Charts as data: bars with spreads, lines with spreads, dots of paired differences; and which of them a table has."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from decathlon.tables.claims import Verdict
from decathlon.tables.render import cell
from decathlon.tables.table import Entry, Table

MOST = 12
"""Charts of one table; a wider table shows more in its cells."""


@dataclass
class Bar:
    """A bar: its value and spread (None: nothing was measured), the paper's number, and the text of its cell."""

    label: str
    value: float | None
    spread: float = 0.0
    reference: float | None = None
    note: str = ""


@dataclass
class Bars:
    """Horizontal bars."""

    title: str
    bars: list[Bar]


@dataclass
class Series:
    """A line: (x, y, spread) by ascending x."""

    label: str
    points: list[tuple[float, float, float]]


@dataclass
class Lines:
    """Lines over a common axis."""

    title: str
    x_label: str
    series: list[Series]
    log_x: bool = False


@dataclass
class Dots:
    """Differences of one claim, paired by seed; the mean, and half of its interval (0 where one seed has none)."""

    title: str
    values: list[tuple[str, float]]
    mean: float
    half: float = 0.0


Chart = Bars | Lines | Dots


@dataclass
class Named:
    """A chart and the name of its file."""

    name: str
    chart: Chart
    of: str = field(default="")


def of_table(table: Table) -> list[Named]:
    """Lines over the last column key where its values are numbers, else bars for each column; ``MOST`` at most."""
    found: list[Named] = []
    keys = table.layout.columns
    for metric in table.metrics:
        columns = [column for column, name in table.columns if name == metric]
        label = str(table.layout.metrics[metric].get("label", metric))
        groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for column in columns:
            groups.setdefault(column[:-1], []).append(column)
        for group, inside in groups.items():
            where = ", ".join(f"{key}={value}" for key, value in zip(keys, group))
            title = f"{label} ({where})" if where else label
            numbers = [number_of(column[-1]) for column in inside] if keys else []
            if len(numbers) >= 3 and all(number is not None for number in numbers):
                xs = [number for number in numbers if number is not None]
                series = [_line(table, row, inside, xs, metric) for row in table.rows]
                series = [one for one in series if one.points]
                if series:
                    log_x = min(xs) > 0 and max(xs) / min(xs) >= 50
                    found.append(Named(_name(metric, group), Lines(title, keys[-1], series, log_x)))
                continue
            for column in inside:
                where = ", ".join(f"{key}={value}" for key, value in zip(keys, column))
                bars = [_bar(table, row, column, metric) for row in table.rows]
                if any(bar.value is not None for bar in bars):
                    name = _name(metric, column)
                    found.append(Named(name, Bars(f"{label} ({where})" if where else label, bars)))
    return found[:MOST]


def of_claim(verdict: Verdict) -> Dots | None:
    """The paired differences of a claim as dots; None where no seed has all of its cells."""
    if not verdict.differences:
        return None
    values = [(f"seed {seed}", value) for seed, value in verdict.differences.items()]
    mean = sum(value for _, value in values) / len(values)
    return Dots("difference, by seed", values, mean, verdict.half)


def _line(
    table: Table, row: tuple[str, ...], columns: Sequence[tuple[str, ...]], xs: Sequence[float], metric: str
) -> Series:
    points = []
    for column, x in zip(columns, xs):
        entry = table.entries.get((row, column, metric))
        if entry is not None and entry.mean is not None:
            points.append((x, entry.mean, entry.std or 0.0))
    return Series(" ".join(row), sorted(points))


def _bar(table: Table, row: tuple[str, ...], column: tuple[str, ...], metric: str) -> Bar:
    entry: Entry | None = table.entries.get((row, column, metric))
    if entry is None:
        return Bar(" ".join(row), None)
    note = cell(entry, table.layout.metrics[metric])
    return Bar(" ".join(row), entry.mean, entry.std or 0.0, entry.paper, note)


def number_of(text: str) -> float | None:
    """A cell's name as a finite number, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _name(metric: str, where: Iterable[str]) -> str:
    """A file's name: letters, digits and a few signs."""
    text = "-".join([metric, *where])
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)[:120]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high]: about ``count`` of them inside."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def extent(values: Iterable[float], zero: bool = False) -> tuple[float, float]:
    """The range that a chart shows; with a margin, never empty, from zero on if ``zero``."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = (high / 20 - low / 20) or abs(high) * 0.1 or 1.0
    return (low if zero and low == 0 < high else low - margin), (high if zero and high == 0 > low else high + margin)
