"""``decathlon runs``, ``show`` and ``compare``: what lies in a results folder, job by job."""

import difflib
import math
import time
from collections.abc import Sequence
from pathlib import Path

from decathlon.errors import ConfigError
from decathlon.runner import catalog, knobs
from decathlon.runner.console import number
from decathlon.runner.records import STATES, Found, Results

Row = dict[str, str]
_SHOWN_METRICS = 4


def select(results: Results, where: Sequence[str]) -> list[Found]:
    """The jobs for which each ``key=value`` of ``where`` holds.

    A key is ``task``, ``dataset``, ``method``, ``seed``, ``status``, ``id``, a dotted key of the config or a metric.

    Raises:
        ConfigError: a condition is no ``key=value``, or no job has such a key.
    """
    if not where:
        return results.jobs
    rows = [(job, _values(job)) for job in results.jobs]
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise ConfigError(f"--where {condition} is no key=value")
        key = "state" if key == "status" else key
        if rows and not any(key in row for _, row in rows):
            known = sorted({name for _, row in rows for name in row})
            close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = (
                f"; did you mean {' or '.join(close)}?" if close else "; `decathlon show <id>` lists the keys of a job"
            )
            raise ConfigError(f"--where {condition}: no job has {key}{hint}")
        if key == "state" and value not in STATES:
            raise ConfigError(f"{value} is no state of a job; choose {', '.join(STATES)}")
        rows = [(job, row) for job, row in rows if key in row and _same(row[key], value)]
    return [job for job, _ in rows]


def _values(job: Found) -> Row:
    metrics = {name: "" if value is None else repr(value) for name, value in job.metrics.items()}
    return {**metrics, **knobs.settings(job), "state": job.state, "id": job.identity}


def _same(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=1e-9)
    except ValueError:
        return a == b


def table(
    jobs: Sequence[Found], metrics: Sequence[str] = (), sort: str = "", reverse: bool = False
) -> tuple[list[Row], list[str]]:
    """One row for each job: the knobs that differ, the main metrics, age, duration and state.

    Args:
        metrics: these in place of the main ones.
        sort: a column or a metric to sort by; rows without it come last.

    Returns:
        The rows and the columns.
    """
    settings = list(map(knobs.settings, jobs))
    keys = knobs.differing(settings) if len(jobs) > 1 else ["task", "dataset", "method", "seed"]
    several = len({job.task for job in jobs}) > 1
    shown = list(metrics) or (
        [] if several else list(dict.fromkeys(n for job in jobs for n in job.report))[:_SHOWN_METRICS]
    )
    for name in shown:
        if not any(name in job.metrics for job in jobs):
            known = sorted({metric for job in jobs for metric in job.metrics})
            raise ConfigError(f"{name} is no metric of these jobs; choose {', '.join(known)}")
    rows = []
    for job, own in zip(jobs, settings):
        row = {"id": job.identity, **{key: own.get(key, "") for key in keys}}
        if several and not metrics:
            row["result"] = next((f"{name} {number(job.metrics[name])}" for name in job.report), "")
        row |= {name: number(job.metrics[name]) if name in job.metrics else "" for name in shown}
        row |= {
            "age": since(job.changed),
            "took": "" if job.seconds is None else spell(job.seconds),
            "state": job.state,
        }
        rows.append(row)
    if sort:
        order = _order(jobs, sort, reverse)
        rows = [rows[place] for place in order]
    columns = ["id", *keys, *(["result"] if several and not metrics else []), *shown, "age", "took", "state"]
    return rows, columns


def _order(jobs: Sequence[Found], sort: str, reverse: bool) -> list[int]:
    """The places of the jobs in the order of a column: numbers before texts, jobs without it last."""
    special = {"age": lambda job: -job.changed, "took": lambda job: job.seconds}
    sort = "state" if sort == "status" else sort
    values = []
    for job in jobs:
        value = special[sort](job) if sort in special else _values(job).get(sort)
        values.append("" if value is None else value)
    if jobs and all(value == "" for value in values):
        raise ConfigError(f"--sort {sort}: no job has it; name a column, a setting or a metric")

    def rank(place: int) -> tuple[bool, float, str]:
        try:
            return False, float(values[place]), ""
        except ValueError:
            return True, 0.0, str(values[place])

    there = sorted((place for place, value in enumerate(values) if value != ""), key=rank, reverse=reverse)
    return there + [place for place, value in enumerate(values) if value == ""]


def trouble(results: Results) -> list[str]:
    """One line for what in the folder is no job or cannot be read."""
    said = []
    if results.unreadable:
        first = results.unreadable[0]
        count = len(results.unreadable)
        jobs = f"{count} job{'s' if count > 1 else ''}"
        said.append(f"{jobs} with files that cannot be read, for example {first.path}: {first.fault}")
    if results.strays:
        said.append(f"{results.strays} files or folders in {results.root} belong to no job; they are left alone")
    unknown = sorted({job.task for job in results.jobs} - set(catalog.tasks()))
    if unknown:
        said.append(f"task {', '.join(unknown[:5])}: not among the tasks that are installed here")
    return said


def spell(seconds: float) -> str:
    """``0.4 s``, ``40 s``, ``6 min``, ``3.5 h``, ``2.1 d``."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h"), (math.inf, 86400, "d")):
        if seconds < limit:
            digits = 1 if (name == "s" and seconds < 10) or name in "hd" else 0
            return f"{seconds / unit:.{digits}f} {name}"
    raise AssertionError


def since(moment: float) -> str:
    """The time since a moment."""
    return spell(max(0.0, time.time() - moment))


def files_of(job: Found) -> Row:
    """The files of a job with their sizes."""
    found = {}
    for path in sorted(Path(job.folder).rglob("*")):
        if path.is_file() and not path.is_symlink():
            found[str(path.relative_to(job.folder))] = spell_bytes(path.stat().st_size)
    return found


def spell_bytes(count: float) -> str:
    """``3 B``, ``1.5 KiB``, ``20 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            return f"{count:.0f} {unit}" if count >= 20 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def compare(jobs: Sequence[Found]) -> tuple[list[Row], list[str]]:
    """The settings in which jobs differ and all their metrics, side by side: one column for each job."""
    names = [job.identity for job in jobs]
    settings = [knobs.settings(job) for job in jobs]
    keys = list(dict.fromkeys(key for row in settings for key in row))
    rows: list[Row] = []
    shown: set[tuple[str, ...]] = set()
    for key in sorted(keys, key=lambda key: key.count(".")):
        values = [row.get(key, "") for row in settings]
        # What says the same as another key is mostly an interpolation of it.
        if len(set(values)) > 1 and not ("." in key and tuple(values) in shown):
            rows.append({"": key, **dict(zip(names, values))})
        shown.add(tuple(values))
    for name in dict.fromkeys(name for job in jobs for name in job.metrics):
        values = [number(job.metrics[name]) if name in job.metrics else "" for job in jobs]
        row = {"": name, **dict(zip(names, values))}
        a, b = jobs[0].metrics.get(name), jobs[-1].metrics.get(name)
        if len(jobs) == 2 and a is not None and b is not None:
            row["difference"] = ("+" if b >= a else "-") + number(abs(b - a))
        rows.append(row)
    rows.append({"": "took", **{job.identity: "" if job.seconds is None else spell(job.seconds) for job in jobs}})
    rows.append({"": "state", **{job.identity: job.state for job in jobs}})
    return rows, ["", *names, *(["difference"] if len(jobs) == 2 else [])]
