"""The commands of ``decathlon`` that look at results. Each takes the parsed command line.

What composes configs is imported by the commands that do: with it comes Hydra, and a list of runs is there sooner.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from decathlon.errors import ConfigError
from decathlon.report import runs as listing
from decathlon.report.rows import show as show_rows
from decathlon.runner import catalog, records
from decathlon.runner import clean as cleaning
from decathlon.runner.console import console, number, say_warning, short

if TYPE_CHECKING:
    from decathlon.runner.forecast import Forecast


def runs(options: Namespace) -> None:
    """``decathlon runs [task]``."""
    task, root = _task(options), results_dir(options.overrides)
    results = records.scan(root, task)
    if task is not None and not results.jobs and task not in catalog.tasks():
        raise ConfigError(f"{task} is no task; choose {', '.join(catalog.tasks())}")
    jobs = listing.select(results, options.where)
    metrics = [name for name in options.metrics.split(",") if name]
    rows, keys = listing.table(jobs, metrics, options.sort, options.reverse)
    if options.format != "terminal" or rows:
        sys.stdout.write(show_rows(rows, keys, options.format, console))
    if options.format == "terminal":
        counts = {state: sum(job.state == state for job in jobs) for state in records.STATES}
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        console.print(
            f"{len(jobs)} of {len(results.jobs)} jobs in {escape(short(root))}" + (f": {said}" if said else "")
        )
    for line in listing.trouble(results):
        say_warning(line)


def _task(options: Namespace) -> str | None:
    """The task that is named; a ``key=value`` in its place is an override."""
    return _word(options, "task")


def _word(options: Namespace, name: str) -> str | None:
    word = getattr(options, name)
    if word is not None and "=" in word:
        options.overrides.insert(0, word)
        setattr(options, name, None)
        return None
    return word


def results_dir(overrides: Sequence[str]) -> Path:
    """The folder that ``results_dir=...`` names, or the default of ``run``.

    Raises:
        ConfigError: another override is given, where only this one has a meaning.
    """
    root = str(catalog.read("run").get("results_dir", "results"))
    for text in overrides:
        key, _, value = text.partition("=")
        if key != "results_dir":
            raise ConfigError(f"{text} has no meaning here; results_dir=... names the folder of results")
        root = value.strip("'\"")
        if root in ("", "null"):
            raise ConfigError(f"{text} names no folder of results")
    return Path(root).expanduser().absolute()


def show(options: Namespace) -> None:
    """``decathlon show <job>``."""
    from decathlon.runner import remake

    job = records.find(options.job, results_dir(options.overrides))
    console.print(f"[bold]{escape(job.path)}[/bold]  {job.state}" + (f" ({escape(job.fault)})" if job.fault else ""))
    about = {"age": listing.since(job.changed)}
    if job.seconds is not None:
        about["took"] = listing.spell(job.seconds)
    for key in ("device", "devices", "commit"):
        if job.content.get(key) is not None:
            about[key] = str(job.content[key])
    memory = job.content.get("peak_memory_mib")
    if isinstance(memory, dict):
        about["peak memory"] = ", ".join(f"{key} {value} MiB" for key, value in memory.items())
    _say_pairs("", about)
    changed, command, doubt = remake.Commands().of(job)
    _say_pairs("differs from the defaults in", changed)
    _say_pairs("metrics", {name: number(value) for name, value in job.metrics.items()})
    _say_pairs("files", listing.files_of(job))
    if job.state == "failed":
        trace = str(job.content.get("traceback", "")).rstrip().splitlines()
        console.print(f"[red]{escape(str(job.content.get('error', '')))}[/]")
        console.print("\n".join("  " + escape(line) for line in trace[-8:]))
    if doubt:
        say_warning(doubt)
    if command:
        console.print("again:")
        console.print("  " + escape(remake.shell(command)))


def _say_pairs(title: str, pairs: dict[str, str]) -> None:
    if not pairs:
        return
    if title:
        console.print(title)
    width = max(map(len, pairs))
    for key, value in pairs.items():
        console.print(f"  [dim]{escape(key.ljust(width))}[/dim]  {escape(value)}")


def compare(options: Namespace) -> None:
    """``decathlon compare <job> <job> ...``."""
    names = [word for word in options.job if "=" not in word]
    root = results_dir([*options.overrides, *(word for word in options.job if "=" in word)])
    if len(names) < 2:
        raise ConfigError("compare needs two jobs or more")
    jobs = [records.find(name, root) for name in names]
    if len({job.identity for job in jobs}) < len(jobs):
        raise ConfigError("compare needs different jobs")
    rows, keys = listing.compare(jobs)
    sys.stdout.write(show_rows(rows, keys, options.format, console))


def _forecast(options: Namespace) -> tuple[str, "Forecast"]:
    from decathlon.runner import forecast

    name = _word(options, "experiment")
    overrides = [*([f"experiment={name}"] if name else []), *options.overrides]
    own = catalog.experiments(name.partition("/")[0]) if name else []
    if name is not None and name not in (known := own or [n for t in catalog.tasks() for n in catalog.experiments(t)]):
        raise ConfigError(f"{name} is no experiment; choose {', '.join(known)}")
    if not overrides:
        raise ConfigError("name an experiment (`decathlon list` has them), or give key=value as for run -m")
    return title_of(overrides), forecast.foresee(forecast.jobs_of(overrides))


def title_of(overrides: Sequence[str]) -> str:
    """What a sweep is called: the experiment and what is set besides."""
    return " ".join(text.removeprefix("experiment=") for text in overrides)


def status(options: Namespace) -> None:
    """``decathlon status <experiment> [override ...]``."""
    from decathlon.report import progress

    progress.say_status(*_forecast(options))


def plan(options: Namespace) -> None:
    """``decathlon plan <experiment or overrides>``."""
    from decathlon.report import progress

    sys.stdout.write(progress.say_plan(*_forecast(options), options.each, options.format))


def dry_run(overrides: Sequence[str]) -> None:
    """``run -m ... --dry-run``."""
    from decathlon.report import progress
    from decathlon.runner import forecast

    progress.say_plan(title_of(overrides), forecast.foresee(forecast.jobs_of(overrides)))


def clean(options: Namespace) -> None:
    """``decathlon clean [--failed --debug --strays --checkpoints] [--yes]``."""
    results = records.scan(results_dir(options.overrides))
    kinds = list(dict.fromkeys(options.kinds or []))
    if options.yes and not kinds:
        raise ConfigError(f"--yes removes what is named: {' '.join(f'--{kind}' for kind in cleaning.KINDS)}")
    removals = {kind: list(cleaning.KINDS[kind](results)) for kind in kinds or cleaning.KINDS}
    for kind, found in removals.items():
        size = listing.spell_bytes(sum(removal.size for removal in found))
        console.print(f"--{kind:12} {len(found):5} {'would go' if not options.yes else 'to go'}, {size}")
        for removal in found if kinds and not options.yes else []:
            console.print(f"  [dim]{removal.why}[/dim] {escape(short(removal.path))}")
    if not options.yes:
        console.print("nothing is removed without --yes; records of finished jobs stay, but those of smoke runs")
        return
    freed, said = cleaning.remove((removal for found in removals.values() for removal in found), results.root)
    for line in said:
        say_warning(line)
    console.print(f"removed, {listing.spell_bytes(freed)} freed")


def report(options: Namespace) -> None:
    """``decathlon report [experiment ...] [--out report] [--open]``."""
    from decathlon.report.site import build

    names = [word for word in options.experiments if "=" not in word]
    overrides = [*options.overrides, *(word for word in options.experiments if "=" in word)]
    root = results_dir([text for text in overrides if text.startswith("results_dir=")])
    site = build(root, Path(options.out).expanduser().absolute(), names, overrides)
    index = site.out / "index.html"
    console.print(f"{site.pages} pages; open {escape(short(index))}")
    for line in listing.trouble(site.results):
        say_warning(line)
    if options.open:
        import webbrowser

        webbrowser.open(index.as_uri())


def plot(options: Namespace) -> None:
    """``decathlon plot <experiment> [--out folder] [--format png or svg]``."""
    from decathlon.report.plot import draw
    from decathlon.tables.table import make_table

    table = make_table(options.experiment, options.overrides)
    paths = draw(table, Path(options.out).expanduser(), options.format)
    if not paths:
        raise ConfigError(f"no job of {options.experiment} has finished: there is nothing to draw")
    for path in paths:
        console.print(escape(short(path.absolute())))


def predict(options: Namespace) -> None:
    """``decathlon predict <job> <file> [--out file]``."""
    from decathlon.runner import predict as prediction

    count, said = prediction.predict(options.job, options.table, options.out, results_dir(options.overrides))
    for line in prediction.say(count, said):
        say_warning(line)
    if options.out is not None:
        console.print(f"{count} rows in {escape(options.out)}")
