"""``decathlon status`` and ``plan``, ``run --dry-run``: how far a sweep is, and what is left of it."""

from collections import Counter

from rich.markup import escape

from decathlon.report.rows import show
from decathlon.report.runs import since, spell, spell_bytes
from decathlon.runner.console import console, errors
from decathlon.runner.forecast import Forecast, Step

_MOST = 10


def say_counts(title: str, forecast: Forecast) -> None:
    """``molpeg/small: 54 jobs: 20 finished, 1 running, 33 to do``."""
    counts = Counter(step.state for step in forecast.steps)
    words = [
        f"{counts[state]} {state}"
        for state in ("finished", "diverged", "running", "failed", "interrupted")
        if counts[state]
    ]
    rest = counts["missing"] + counts["unreadable"]
    words += [f"{rest} to do"] if rest else []
    total = len(forecast.steps)
    console.print(f"[bold]{escape(title)}[/bold]: {total} job{'s' if total != 1 else ''}: {', '.join(words) or 'none'}")


def say_left(forecast: Forecast) -> None:
    """The estimated time left, GPU-hours where known."""
    todo, unknown = forecast.todo, forecast.unknown
    if not todo:
        took = sum(step.seconds or 0.0 for step in forecast.steps)
        console.print(f"nothing left to do; the jobs took {spell(took)} together")
        return
    if unknown < len(todo):
        text = f"about {spell(forecast.seconds_left)} left, one job after another"
        if unknown:
            text += f", for {len(todo) - unknown} of the {len(todo)} jobs"
            text += f"; nothing like the other {unknown} has finished yet"
        console.print(text)
    else:
        console.print("time left unknown: nothing like these jobs has finished yet")
    if forecast.gpu_hours:
        console.print(f"about {forecast.gpu_hours:.2f} GPU-hours")


def say_status(title: str, forecast: Forecast) -> None:
    """``decathlon status``."""
    say_counts(title, forecast)
    say_left(forecast)
    for step in [step for step in forecast.steps if step.state == "running" and step.found]:
        assert step.found is not None
        of = f" of about {spell(step.seconds)}" if step.seconds else ""
        console.print(f"  [blue]running[/] for {since(step.found.changed)}{of}: {_name(step)}")
    failed = [step for step in forecast.steps if step.state == "failed"]
    for step in failed[:_MOST]:
        said = str(step.found.content.get("error", "")) if step.found else ""
        errors.print(f"  [red]failed[/] {_name(step)}: {escape((said.splitlines() or ['?'])[0])}")
    if len(failed) > _MOST:
        errors.print(f"  and {len(failed) - _MOST} more: decathlon runs --where status=failed")


def say_plan(title: str, forecast: Forecast, each: bool = False, form: str = "terminal") -> str:
    """``decathlon plan``: a line for each kind of job (or for each job), and what is left.

    Returns:
        The lines as text where ``form`` is for a file.
    """
    rows, keys = _jobs(forecast) if each else _kinds(forecast)
    if form != "terminal":
        return show(rows, keys, form, console)
    say_counts(title, forecast)
    show(rows, keys, form, console)
    say_left(forecast)
    if forecast.longest and len(forecast.todo) > 1:
        console.print(f"the longest of them about {spell(forecast.longest)}: a cluster's time limit has to be above it")
    free = forecast.free_disk()
    if forecast.disk and free is not None:
        lack = " [red](not enough)[/]" if forecast.disk > free else ""
        console.print(f"about {spell_bytes(forecast.disk)} of disk for what is left; {spell_bytes(free)} free{lack}")
    return ""


def _kinds(forecast: Forecast) -> tuple[list[dict[str, str]], list[str]]:
    kinds: dict[tuple[str, str, str], list[Step]] = {}
    for step in forecast.steps:
        kinds.setdefault((step.job.task, step.job.dataset, step.job.method), []).append(step)
    rows = []
    for (task, dataset, method), steps in kinds.items():
        times = [step.seconds for step in steps if step.seconds is not None]
        todo = [step for step in steps if not step.is_done]
        known = [step.left for step in todo if step.left is not None]
        left = "" if not todo else "?" if not known else spell(sum(known)) + (" + ?" if len(known) < len(todo) else "")
        rows.append({
            "task": task, "dataset": dataset, "method": method, "jobs": str(len(steps)),
            "done": str(len(steps) - len(todo)), "each": spell(sum(times) / len(times)) if times else "?",
            "left": left,
            "from jobs of the same": ", ".join(dict.fromkeys(step.like for step in todo if step.like)),
        })  # fmt: skip
    return rows, ["task", "dataset", "method", "jobs", "done", "each", "left", "from jobs of the same"]


def _jobs(forecast: Forecast) -> tuple[list[dict[str, str]], list[str]]:
    rows = [
        {
            "id": step.job.identity, "task": step.job.task, "dataset": step.job.dataset, "method": step.job.method,
            "seed": str(step.job.seed), "state": "to do" if step.state == "missing" else step.state,
            "time": "?" if step.seconds is None else spell(step.seconds), "from jobs of the same": step.like,
        }
        for step in forecast.steps
    ]  # fmt: skip
    return rows, ["id", "task", "dataset", "method", "seed", "state", "time", "from jobs of the same"]


def _name(step: Step) -> str:
    job = step.job
    return escape(f"{job.dataset}/{job.method} seed {job.seed} ({job.identity})")
