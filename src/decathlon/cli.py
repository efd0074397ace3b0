"""``decathlon``: everything that is not an experiment. What there is and what came of it, tables, reports, data."""

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from rich.markup import escape

from decathlon import __version__
from decathlon.errors import ConfigError, UserError
from decathlon.runner import catalog


def main(arguments: Sequence[str] | None = None) -> None:
    """Console script ``decathlon``."""
    from decathlon.runner.console import say_error, speak_any_alphabet

    speak_any_alphabet()
    parser = _parser()
    # Options and overrides in any order: argparse alone takes overrides only next to the experiment.
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    try:
        if getattr(options, "composes", False):
            from decathlon.runner.checks import check_overrides

            check_overrides(options.overrides)
        options.command(options)
    except UserError as error:
        say_error(str(error))
        sys.exit(2)
    except OSError as error:
        say_error(f"{error.strerror}: {error.filename or 'while writing'}")
        sys.exit(1)
    except Exception as error:
        # Hydra takes longer to import than a thousand jobs to list: only the commands that compose configs do so.
        from decathlon.runner.messages import COMPOSITION, explain

        if not isinstance(error, COMPOSITION):
            raise
        say_error(explain(error, getattr(options, "overrides", [])))
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="decathlon", description="Lists, tables and data; experiments are `run`.")
    parser.add_argument("--version", action="version", version=f"decathlon {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the tasks, and for each its datasets, methods and tables")
    listing.add_argument("task", nargs="?", help="only this task, with a line for each entry")
    listing.set_defaults(command=list_tasks)
    table = commands.add_parser("table", help="a table of a paper from the finished jobs, and its claims")
    table.add_argument("experiment", help="for example molpeg/small")
    table.add_argument("overrides", nargs="*", help="as given to run -m, for example seed=0,1 or results_dir=...")
    table.add_argument("--format", choices=["terminal", "md", "latex", "csv", "json"], default="terminal")
    table.add_argument("--metrics", default="", help="show these only, for example test/f1,test/worst_f1")
    table.add_argument("--no-claims", action="store_true", help="only the numbers")
    table.set_defaults(command=print_table, composes=True)
    _add_looks(commands)
    data = commands.add_parser("data", help="fetch and check a dataset ahead of time")
    data.add_argument("dataset")
    data.add_argument("overrides", nargs="*", help="for example task=molpeg or data_dir=...")
    data.set_defaults(command=prepare_data, composes=True)
    return parser


def _add_looks(commands: Any) -> None:
    """The commands that look at results; each takes ``results_dir=...``."""

    def add(name: str, about: str, *words: tuple[str, str, str]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        for word, nargs, help in words:
            command.add_argument(word, nargs=nargs or None, help=help)
        # Also where a command takes words of its own: a key=value among them is an override.
        command.add_argument("overrides", nargs="*", help="results_dir=... and, of a sweep, what run -m was given")
        command.set_defaults(command=lambda options: getattr(_looks(), name)(options))
        return command

    experiment = ("experiment", "?", "for example molpeg/small; or key=value as for run -m")
    runs = add(
        "runs",
        "the jobs of a results folder: the knobs that differ, main metrics, age, duration, state",
        ("task", "?", "only this task"),
    )
    runs.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="lr=0.01, status=failed, ...")
    runs.add_argument("--sort", default="", metavar="KEY", help="a column, a setting or a metric")
    runs.add_argument("--reverse", action="store_true", help="from the largest down")
    runs.add_argument("--metrics", default="", help="these in place of the main ones, for example test/f1,test/loss")
    show = add(
        "show",
        "one job: settings, metrics, files, the command that makes it again, its error",
        ("job", "", "an id, the beginning of one, or a folder"),
    )
    compare = add("compare", "settings and metrics of jobs side by side", ("job", "+", "ids or folders"))
    status = add("status", "how far a sweep is, and about how long it will take", experiment)
    plan = add("plan", "the jobs of a sweep, which are done, estimated time and disk; nothing is run", experiment)
    plan.add_argument("--each", action="store_true", help="a line for each job")
    for command in (runs, compare, plan):
        command.add_argument("--format", choices=["terminal", "md", "csv", "json"], default="terminal")
    for command in (show, status):
        command.set_defaults(format="terminal")
    report = add(
        "report",
        "the results as a static site: index, tables with claims and charts, jobs",
        ("experiments", "*", "only these tables; by default all with a finished job"),
    )
    report.add_argument("--out", default="report", help="the folder to write (report)")
    report.add_argument("--open", action="store_true", help="open it in the browser")
    plot = add("plot", "the charts of a table as files", ("experiment", "", "for example molpeg/small"))
    plot.add_argument("--out", default=".", help="the folder to write into (.)")
    plot.add_argument("--format", choices=["png", "svg"], default="png")
    for command in (status, plan, report, plot):
        command.set_defaults(composes=True)
    predict = add("predict", "answers of a trained job to the rows of a CSV table",
                  ("job", "", "an id, the beginning of one, or a folder"), ("table", "", "a CSV file"))  # fmt: skip
    predict.add_argument("--out", help="the file to write; standard output by default")
    clean = add("clean", "what can be removed of a results folder without losing a record; removes it with --yes")
    for kind, about in (("failed", "jobs that failed"), ("debug", "smoke runs"), ("strays", "what killed runs left"),
                        ("checkpoints", "checkpoints of finished jobs")):  # fmt: skip
        clean.add_argument(f"--{kind}", dest="kinds", action="append_const", const=kind, help=about)
    clean.add_argument("--yes", action="store_true", help="remove it")


def _looks() -> ModuleType:
    from decathlon.report import commands

    return commands


def list_tasks(options: argparse.Namespace) -> None:
    """``decathlon list [task]``."""
    from decathlon.runner.console import console

    if options.task is not None and options.task not in catalog.tasks():
        raise ConfigError(f"{options.task} is no task; choose {', '.join(catalog.tasks())}")
    for task in [options.task] if options.task else catalog.tasks():
        about = catalog.read(f"task/{task}").get("task", {})
        title, paper = (escape(str(about.get(key, ""))) for key in ("title", "paper"))
        console.print(f"[bold]{task}[/bold]  {title} [dim]{paper}[/dim]")
        names = {name: catalog.read(f"datasets/{task}/{name}") for name in catalog.datasets(task)}
        embedded = [name for name, config in names.items() if config.get("embedded")]
        own = [name for name, config in names.items() if config.get("own")]
        _print_names("embedded", embedded, names, options.task)
        _print_names("download", [name for name in names if name not in (*embedded, *own)], names, options.task)
        _print_names("your own", own, names, options.task)
        methods = {name: catalog.read(f"methods/{task}/{name}") for name in catalog.methods(task)}
        _print_names("methods", list(methods), methods, options.task)
        tables = {name: catalog.read(f"experiment/{name}").get("table", {}) for name in catalog.experiments(task)}
        _print_names("tables", list(tables), tables, options.task)


def _print_names(label: str, names: list[str], configs: dict[str, dict], one_each: bool) -> None:
    from decathlon.runner.console import console

    if not names:
        return
    if not one_each:
        console.print(f"  [dim]{label:9}[/dim] {', '.join(names)}")
        return
    for name in names:
        console.print(f"  [dim]{label:9}[/dim] {name:22} {escape(str(configs[name].get('title', '')))}")


def print_table(options: argparse.Namespace) -> None:
    """``decathlon table <task>/<name>``."""
    from decathlon.runner.console import console
    from decathlon.tables import render
    from decathlon.tables.table import make_table

    table = make_table(options.experiment, options.overrides, [name for name in options.metrics.split(",") if name])
    if options.no_claims:
        table.verdicts, table.layout.note = [], ""
    if options.format == "terminal":
        render.to_terminal(table, console)
    else:
        sys.stdout.write(render.FORMATS[options.format](table))


def prepare_data(options: argparse.Namespace) -> None:
    """``decathlon data <dataset>``."""
    from decathlon.runner.compose import compose_config
    from decathlon.runner.console import console
    from decathlon.runner.job import Job

    named = [o.partition("=")[2] for o in options.overrides if o.startswith("task=")]
    owners = [task for task in named or catalog.tasks() if options.dataset in catalog.datasets(task)]
    if not owners:
        known = sorted({name for task in named or catalog.tasks() for name in catalog.datasets(task)})
        raise ConfigError(f"{options.dataset} is no dataset; choose {', '.join(known)}")
    if len(owners) > 1:
        raise ConfigError(f"{options.dataset} is a dataset of {', '.join(owners)}; add task=<one of them>")
    rest = [o for o in options.overrides if not o.startswith("task=")]
    job = Job.of(compose_config([f"task={owners[0]}", f"dataset={options.dataset}", *rest]))
    from decathlon.runner.execute import construct, quiet

    quiet()
    _, data = construct(job.config)
    # A data module whose ``prepare_data`` does more than that offers ``fetch_data``, which may say where things lie.
    folders = getattr(data, "fetch_data", data.prepare_data)() or [job.config["data_dir"]]
    places = " and ".join(dict.fromkeys(str(folder) for folder in folders))
    console.print(f"{options.dataset} is ready in {places}", soft_wrap=True)


if __name__ == "__main__":
    main()
