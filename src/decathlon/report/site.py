"""``decathlon report``: a static site of the results, which opens from a file without network, server or build step."""

import csv
import io
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from decathlon.errors import ConfigError
from decathlon.report import charts, runs, svg
from decathlon.runner import catalog, knobs, records, remake
from decathlon.runner.console import number
from decathlon.runner.records import Found, Results
from decathlon.tables import plan as experiments
from decathlon.tables import render
from decathlon.tables.plan import Experiment
from decathlon.tables.table import Entry, Table, lay_out

_MARK = ".decathlon-report"
_FOLDERS = ("tables", "tasks", "jobs", "pictures")
_PICTURES = {".png", ".svg", ".gif", ".jpg"}
_LARGEST_PICTURE = 5 << 20
_LONGEST_LOG = 4 << 20
_CURVES, _POINTS = 12, 200


@dataclass
class Site:
    """A site while it is written.

    Attributes:
        out: its folder. results: what it is about. links: by job folder, the page of the job.
    """

    out: Path
    results: Results
    commands: remake.Commands = field(default_factory=remake.Commands)
    links: dict[Path, str] = field(default_factory=dict)
    pages: int = 0

    def __post_init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("decathlon.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        moment = time.strftime("%Y-%m-%d %H:%M")
        self._templates.globals["footer"] = f"Written by decathlon report on {moment} from {self.results.root}."
        taken: set[str] = set()
        for job in self.results.jobs:
            name = job.identity if job.identity not in taken else f"{job.identity}-{len(taken)}"
            taken.add(name)
            self.links[job.folder] = f"jobs/{name}.html"

    def write(self, page: str, template: str, crumbs: Sequence[tuple[str, str]] = (), **content: Any) -> None:
        """Render one page; ``crumbs`` are what stands above it, from the index down."""
        up = "../" * page.count("/")
        text = self._templates.get_template(template).render(up=up, crumbs=crumbs, **content)
        (self.out / page).write_text(text, encoding="utf-8", errors="replace")  # names of files that are no text
        self.pages += 1


def build(root: Path, out: Path, names: Sequence[str] = (), overrides: Sequence[str] = ()) -> Site:
    """Write the site of a results folder into ``out``.

    Args:
        names: the experiments to show; by default those of which a job has finished.
        overrides: as for ``decathlon table``, ``results_dir`` among them.

    Raises:
        ConfigError: there are no results, no such experiment, or ``out`` holds something else than a report.
    """
    known = [name for task in catalog.tasks() for name in catalog.experiments(task)]
    for name in names:
        if name not in known:
            raise ConfigError(f"{name} is no table; choose {', '.join(known)}")
    site = Site(out, records.scan(root))
    _prepare(out)
    by_task: dict[str, list[Found]] = {}
    for job in site.results.jobs:
        by_task.setdefault(job.task, []).append(job)
    sections = []
    for task in dict.fromkeys([*catalog.tasks(), *by_task]):
        wanted = [name for name in catalog.experiments(task) if not names or name in names]
        if names and not wanted and task not in by_task:
            continue
        tables = [_table_entry(site, name, by_task.get(task, []), overrides, bool(names)) for name in wanted]
        sections.append(_task_entry(site, task, by_task.get(task, []), tables))
    for job in site.results.jobs:
        _job_page(site, job)
    states = [job.state for job in site.results.jobs]
    counts = {state: states.count(state) for state in records.STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    site.write(
        "index.html", "index.html", root=str(root), jobs=len(site.results.jobs), states=said, tasks=sections,
        trouble=runs.trouble(site.results),
    )  # fmt: skip
    return site


def _prepare(out: Path) -> None:
    """An empty folder for the site; an earlier report is replaced, anything else is left alone."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / _MARK).exists()):
        raise ConfigError(f"{out} is there and is no report; name another folder with --out")
    for name in _FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    (out / _MARK).touch()
    templates = Path(__file__).parent / "templates"
    for name in ("report.css", "report.js"):
        shutil.copyfile(templates / name, out / name)


def _task_entry(site: Site, task: str, jobs: list[Found], tables: list[dict[str, Any]]) -> dict[str, Any]:
    about = catalog.read(f"task/{task}").get("task", {}) if task in catalog.tasks() else {}
    link = f"tasks/{_file_name(task)}.html" if jobs else ""
    if jobs:
        rows, keys = runs.table(jobs)
        for row, job in zip(rows, jobs):
            row["__link"] = site.links[job.folder]
            row["__age"], row["__took"] = f"{time.time() - job.changed:.0f}", str(job.seconds or "")
        site.write(link, "task.html", [(task, "")], name=task, rows=rows, keys=keys)
    return {
        "name": task, "title": " ".join(str(about.get("title", "")).split()), "paper": about.get("paper", ""),
        "jobs": len(jobs), "link": link, "tables": tables,
    }  # fmt: skip


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def _table_entry(site: Site, name: str, jobs: list[Found], overrides: Sequence[str], asked: bool) -> dict[str, Any]:
    """A line of the index; its page is written if a job of it is finished, or if the table was asked for by name."""
    title = " ".join(str(catalog.read(f"experiment/{name}").get("table", {}).get("title", "")).split())
    entry: dict[str, Any] = {"name": name, "title": title, "jobs": 0, "note": "none"}
    if not asked and not _may_have_jobs(name, jobs):
        return entry
    experiment = experiments.load(name, overrides)
    table = lay_out(experiment)
    if not asked and not table.finished:
        return entry | {"jobs": table.jobs, "finished": 0}
    entry["link"] = f"tables/{_file_name(name.replace('/', '-'))}.html"
    _table_page(site, entry["link"], experiment, table)
    counts = [(kind, sum(v.verdict == kind for v in table.verdicts)) for kind in ("holds", "fails", "undecided")]
    claims = ", ".join(f"{count} {kind}" for kind, count in counts if count)
    return entry | {"jobs": table.jobs, "finished": table.finished, "claims": claims}


def _may_have_jobs(name: str, jobs: Iterable[Found]) -> bool:
    """Whether the datasets and methods of an experiment are among those of the jobs: a look at its file."""
    config = catalog.read(f"experiment/{name}")
    params = ((config.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    chosen = _defaults(config)
    chosen = {**_defaults(catalog.read(f"task/{chosen.get('task', name.partition('/')[0])}")), **chosen}
    there = {(job.dataset, job.method) for job in jobs if job.is_finished}

    def allowed(key: str, value: str) -> bool:
        swept = str(params.get(key) or chosen.get(key) or "")
        return not swept or "(" in swept or value in [part.strip() for part in swept.split(",")]

    return any(allowed("dataset", dataset) and allowed("method", method) for dataset, method in there)


def _defaults(config: dict[str, Any]) -> dict[str, str]:
    """What the ``defaults`` of a config choose: ``{"dataset": "hiv"}`` of ``- override /dataset: hiv``."""
    entries = [entry for entry in config.get("defaults") or [] if isinstance(entry, dict)]
    return {str(key).rpartition("/")[2]: str(value) for entry in entries for key, value in entry.items()}


def _table_page(site: Site, page: str, experiment: Experiment, table: Table) -> None:
    rows = [
        {"labels": row, "cells": [_cell(table, row, column) for column in table.columns]} for row in table.rows
    ]  # fmt: skip
    claims = []
    for verdict in table.verdicts:
        dots = charts.of_claim(verdict)
        drawn = svg.draw(dots, verdict.why) if dots else ""
        claims.append({"verdict": verdict.verdict, "says": verdict.says, "check": verdict.check, "why": verdict.why,
                       "dots": drawn})  # fmt: skip
    jobs = []
    for planned in {planned.job.identity: planned for planned in experiment.jobs}.values():
        text = " ".join([*(str(planned.values[key]) for key in table.layout.keys), f"seed {planned.job.seed}"])
        jobs.append((text, site.links.get(planned.job.folder, "")))
    task = table.name.partition("/")[0]
    crumbs = (
        [(task, f"tasks/{_file_name(task)}.html"), (table.name, "")] if _has_page(site, task) else [(table.name, "")]
    )
    drawn_charts = [svg.draw(named.chart, _described(named.chart)) for named in charts.of_table(table)]
    site.write(
        page, "table.html", crumbs, table=table, caption=render.caption(table), headings=render.headings(table),
        rows=rows, claims=claims, charts=drawn_charts, jobs=jobs,
        has_paper=any(entry.paper is not None for entry in table.entries.values()),
    )  # fmt: skip


def _has_page(site: Site, task: str) -> bool:
    return any(job.task == task for job in site.results.jobs)


def _cell(table: Table, row: tuple[str, ...], column: tuple[tuple[str, ...], str]) -> dict[str, Any]:
    entry: Entry | None = table.entries.get((row, *column))
    if entry is None:
        return {"text": "", "value": None}
    metric = table.layout.metrics[column[1]]
    paper = ""
    if entry.paper is not None:
        paper = f"paper {render.number(entry.paper, metric)}"
        if entry.difference is not None:
            sign = "+" if entry.difference >= 0 else "−"
            paper += f", {sign}{render.number(abs(entry.difference), metric)}"
    text = render.cell(entry, metric, paper=False)
    return {"text": text, "value": entry.mean, "best": entry.best, "n": entry.n, "paper": paper}


def _described(chart: charts.Chart) -> str:
    """A chart in words: its numbers are in the table, so only what it shows."""
    if isinstance(chart, charts.Bars):
        best = "; ".join(f"{bar.label} {bar.note}" for bar in chart.bars[:20])
        return f"Bars: {best}"
    if isinstance(chart, charts.Lines):
        return f"Lines over {chart.x_label}: {', '.join(series.label for series in chart.series[:20])}"
    return ""


def _job_page(site: Site, job: Found) -> None:
    changed, command, doubt = site.commands.of(job)
    error = ""
    if job.state == "failed":
        trace = str(job.content.get("traceback", "")).rstrip().splitlines()[-12:]
        error = "\n".join([str(job.content.get("error", "")), *trace])
    about = {"age": runs.since(job.changed)}
    if job.seconds is not None:
        about["took"] = runs.spell(job.seconds)
    for key in ("device", "devices", "commit"):
        if job.content.get(key) is not None:
            about[key] = str(job.content[key])
    link = site.links[job.folder]
    site.write(
        link, "job.html", [(job.task, f"tasks/{_file_name(job.task)}.html"), (job.identity, "")], path=job.path,
        state=job.state, fault=job.fault, error=error, command=remake.shell(command) if command else doubt,
        metrics={name: number(value) for name, value in job.metrics.items()}, changed=changed, about=about,
        settings=knobs.settings(job), curves=[svg.draw(curve) for curve in curves(job.folder / "metrics.csv")],
        pictures=list(_pictures(site, job, Path(link).stem)),
    )  # fmt: skip


def _pictures(site: Site, job: Found, name: str) -> Iterator[tuple[str, str]]:
    """The pictures that a job has drawn, copied into the site."""
    for path in sorted(job.folder.glob("*")):
        if path.suffix.lower() in _PICTURES and path.is_file() and path.stat().st_size <= _LARGEST_PICTURE:
            target = f"pictures/{name}-{_file_name(path.name)}"
            shutil.copyfile(path, site.out / target)
            yield path.name, target


def curves(path: Path) -> list[charts.Lines]:
    """What a job logged while it ran, one chart for each metric with two points or more; thinned to 200 points."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(io.StringIO(file.read(_LONGEST_LOG)))
            rows = list(reader)
    except (OSError, csv.Error):
        return []
    found = []
    for name in [name for name in reader.fieldnames or [] if name not in ("step", "epoch")]:
        points = []
        for row in rows:
            x, y = charts.number_of(row.get("step") or ""), charts.number_of(row.get(name) or "")
            if x is not None and y is not None:
                points.append((x, y, 0.0))
        if len(points) >= 2:
            every = -(-len(points) // _POINTS)
            found.append(charts.Lines(name, "step", [charts.Series(name, [*points[::every], points[-1]])]))
    return found[:_CURVES]
