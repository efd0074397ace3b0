"""What a person sees of a run: what runs and where, the result, the path of the record."""

import codecs
import io
import os
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from decathlon.runner import catalog

if TYPE_CHECKING:  # with it comes Hydra, which takes longer than to list a thousand jobs
    from decathlon.runner.job import Job

# Without a terminal (a pipe, a log) nobody folds lines, and a table may be as wide as a page.
WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100
console = Console(highlight=False, soft_wrap=True, width=WIDTH)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
_PLAIN = {"±": "+/-", "—": "-", "–": "-", "…": "...", "×": "x", "→": "->", "≥": ">=", "≤": "<="}


def speak_any_alphabet() -> None:
    """Let a terminal that knows ASCII only show ± as +/- and so on, where writing would otherwise be an error.

    No alphabet has what names of files hold that are no text: there it is a question mark.
    """
    codecs.register_error("decathlon", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="decathlon")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in text), error.end


def say(message: str) -> None:
    """One line on standard output."""
    console.print(escape(message))


def say_warning(message: str) -> None:
    """One line on standard error."""
    errors.print(f"[yellow]warning:[/yellow] {escape(' '.join(message.split()))}")


def short(path: Path) -> str:
    """A path as short as it can be written from the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def number(value: float | None) -> str:
    """A metric with four significant digits; a dash where there is none."""
    if value is None:
        return "—"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:.1f}"
    return f"{value:.3e}"


def say_start(job: "Job", device: str, resumed: bool, place: str = "") -> None:
    """Two lines: the job, its knobs and its folder; ``place`` is its place in a sweep."""
    config = job.config
    groups = {"seed", "fit", "debug", "force", "data_dir", "results_dir", "precision"}
    knobs = {k: v for k, v in config.items() if k not in groups and isinstance(v, (int, float, str, bool))}
    options = {
        k: v
        for k, v in config["method"].items()
        if k not in {"name", "title", "class"} and isinstance(v, (int, float, str, bool))
    }
    text = escape(", ".join(f"{k}={v}" for k, v in {**knobs, **options}.items()))
    if place:
        console.print(f"[dim]{place}[/dim]")
    console.print(
        f"[bold]{job.task}[/bold] on [bold]{job.dataset}[/bold] by [bold]{job.method}[/bold], "
        f"seed {job.seed}" + (f" ({text})" if text else "")
    )
    console.print(f"[dim]{'resumes' if resumed else 'starts'} on {device} in {escape(short(job.folder))}[/dim]")


def say_result(job: "Job", record: dict[str, Any], known: bool = False) -> None:
    """The metrics of a finished job and where its record is."""
    metrics = record["metrics"]
    shown = job.config["report"] or [name for name in metrics if name.startswith("test/")]
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name in shown:
        if name in metrics:
            table.add_row(escape(name), f"[bold]{number(metrics[name])}[/bold]")
    console.print(table)
    when = "finished before" if known else f"finished in {record['wall_time_s']:.1f} s"
    console.print(f"[green]{when}[/green]; record {escape(short(job.record_path))}")


def say_error(message: str) -> None:
    """One line on standard error."""
    errors.print(f"[red]error:[/red] {escape(' '.join(message.split()))}")


def say_sweep(outcomes: Iterable[dict[str, Any]], skipped: int = 0) -> None:
    """One line for each job of a sweep that failed, and the count of all; ``skipped`` were not even started."""
    outcomes = list(outcomes)
    counts: dict[str, int] = {"skipped": skipped} if skipped else {}
    for outcome in outcomes:
        counts[outcome["status"]] = counts.get(outcome["status"], 0) + 1
    console.print("sweep: " + (", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "no jobs"))
    for outcome in outcomes:
        if outcome["status"] == "failed":
            errors.print(f"[red]failed[/red] {escape(outcome['job'])}: {escape(outcome['error'])}")


def say_help() -> None:
    """``run --help``, on one screen: usage, tasks, the keys that every run has."""
    lines = []
    for task in catalog.tasks():
        title = " ".join(str(catalog.read(f"task/{task}").get("task", {}).get("title", "")).split())
        lines.append(f"  {task:8} {textwrap.shorten(title, 88, placeholder=' ...')}")
    text = str(catalog.read("run")["hydra"]["help"]["template"])
    console.print(text.replace("$TASKS", "\n".join(lines)).rstrip(), markup=False)
