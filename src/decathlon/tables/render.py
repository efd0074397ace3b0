"""Tables as text: terminal, Markdown, LaTeX, CSV, JSON."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from decathlon.tables.table import Entry, Table


def number(value: float, metric: dict[str, Any]) -> str:
    """A value in the metric's number of digits; tiny and huge ones, and ``digits: e``, in scientific notation."""
    digits = metric.get("digits", 3)
    if digits == "e" or (value != 0 and not 1e-3 <= abs(value) < 1e6 and "digits" not in metric):
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def cell(entry: Entry | None, metric: dict[str, Any], plus_minus: str = "±", paper: bool = True) -> str:
    """``82.7 ± 0.4 (paper 83.7, -1.0)``; a dash where nothing is finished; ``n=2/3`` where seeds are missing."""
    if entry is None:
        return ""
    if entry.mean is None:
        text = f"failed {entry.failed}/{entry.expected}" if entry.failed else "—"
    else:
        text = number(entry.mean, metric)
        if entry.std is not None:
            text += f" {plus_minus} {number(entry.std, metric)}"
        if entry.n < entry.expected:
            text += f" (n={entry.n}/{entry.expected})"
        if entry.mark:
            text += f" [{entry.mark}]"
        if entry.tuned is not None:
            text += f" @{entry.tuned:g}" if isinstance(entry.tuned, (int, float)) else f" @{entry.tuned}"
    if paper and entry.paper is not None:
        text += f" (paper {number(entry.paper, metric)}"
        if entry.difference is not None:
            text += f", {'+' if entry.difference >= 0 else '-'}{number(abs(entry.difference), metric)}"
        text += ")"
    return text


def headings(table: Table) -> list[str]:
    """Column headings: row keys, then column values with the metric's label where there are several."""
    names = []
    for column, metric in table.columns:
        label = table.layout.metrics[metric].get("label", metric)
        keys = [
            f"{key}={value}" if key not in ("dataset", "method") else value
            for key, value in zip(table.layout.columns, column)
        ]
        names.append(" ".join(keys + ([label] if len(table.metrics) > 1 or not keys else [])))
    return [*table.layout.rows, *names]


def body(table: Table, show: Callable[[Entry | None, dict[str, Any]], str]) -> list[list[str]]:
    """The table's lines as text."""
    return [
        [*row, *(show(table.entries.get((row, column, metric)), table.layout.metrics[metric])
                 for column, metric in table.columns)]
        for row in table.rows
    ]  # fmt: skip


def caption(table: Table) -> str:
    """Title, metric and how much of it is there."""
    main = table.layout.metrics[table.metrics[0]]
    what = f" [{main.get('label')}]" if len(table.metrics) == 1 and main.get("label") else ""
    return f"{table.layout.title}{what}: mean ± std over seeds; {table.finished} of {table.jobs} jobs finished"


def to_terminal(table: Table, console: Console) -> None:
    """Print with rich: the best of a column is bold, the verdicts follow."""
    view = RichTable(title=escape(caption(table)), title_justify="left", header_style="bold")
    for heading in headings(table):
        view.add_column(escape(heading), overflow="fold")

    def show(entry: Entry | None, metric: dict[str, Any]) -> str:
        text = escape(cell(entry, metric))
        return f"[bold]{text}[/bold]" if entry and entry.best else text

    for line in body(table, show):
        view.add_row(*line)
    console.print(view, soft_wrap=False)
    colours = {"holds": "green", "fails": "red", "undecided": "yellow"}
    for verdict in table.verdicts:
        colour = colours[verdict.verdict]
        console.print(f"[{colour}]{verdict.verdict:>9}[/{colour}]  {escape(verdict.says)}")
        console.print(f"           [dim]{escape(verdict.check)}: {escape(verdict.why)}[/dim]")
    if table.layout.note:
        console.print(f"[dim]{escape(table.layout.note)}[/dim]")


def to_markdown(table: Table) -> str:
    """GitHub-flavoured Markdown, the claims as a second table."""

    def show(entry: Entry | None, metric: dict[str, Any]) -> str:
        text = cell(entry, metric)
        return f"**{text}**" if entry and entry.best else text

    lines = [caption(table), "", _md_row(headings(table)), _md_row(["---"] * len(headings(table)))]
    lines += [_md_row(line) for line in body(table, show)]
    if table.verdicts:
        lines += ["", _md_row(["verdict", "claim", "check", "statistic"]), _md_row(["---"] * 4)]
        lines += [_md_row([f"*{v.verdict}*", v.says, f"`{v.check}`", v.why]) for v in table.verdicts]
    if table.layout.note:
        lines += ["", table.layout.note]
    return "\n".join(lines) + "\n"


def _md_row(items: list[str]) -> str:
    return "| " + " | ".join(item.replace("|", "\\|") for item in items) + " |"


def to_latex(table: Table) -> str:
    """A booktabs tabular."""

    def show(entry: Entry | None, metric: dict[str, Any]) -> str:
        text = _tex(cell(entry, metric)).replace("±", r"$\pm$")
        return rf"\textbf{{{text}}}" if entry and entry.best else text

    heads = [_tex(heading) for heading in headings(table)]
    lines = [f"% {caption(table)}", rf"\begin{{tabular}}{{{'l' * len(heads)}}}", r"\toprule"]
    lines += [" & ".join(heads) + r" \\", r"\midrule"]
    lines += [" & ".join([*map(_tex, line[: len(table.layout.rows)]), *line[len(table.layout.rows) :]]) + r" \\"
              for line in body(table, show)]  # fmt: skip
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% {v.verdict}: {v.says} ({v.check}: {v.why})" for v in table.verdicts]
    return "\n".join(lines) + "\n"


def _tex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text.replace("—", "---")


def records(table: Table) -> list[dict[str, Any]]:
    """One flat mapping for each number."""
    flat = []
    for entry in table.entries.values():
        keys = dict(zip(table.layout.rows, entry.row)) | dict(zip(table.layout.columns, entry.column))
        rest = {k: v for k, v in asdict(entry).items() if k not in ("row", "column")}
        flat.append({**keys, **rest, "difference": entry.difference})
    return flat


def to_csv(table: Table) -> str:
    """One line for each number."""
    rows = records(table)
    sink = io.StringIO()
    writer = csv.DictWriter(sink, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def to_json(table: Table) -> str:
    """Everything, for programs."""
    content = {
        "experiment": table.name, "title": table.layout.title, "note": table.layout.note,
        "jobs": table.jobs, "finished": table.finished, "cells": records(table),
        "claims": [asdict(verdict) for verdict in table.verdicts],
    }  # fmt: skip
    return json.dumps(content, indent=2) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {
    "md": to_markdown, "latex": to_latex, "csv": to_csv, "json": to_json,
}  # fmt: skip
