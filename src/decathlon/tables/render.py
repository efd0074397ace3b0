"""Tables as text: terminal, Markdown, LaTeX, CSV, JSON."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as RichTable

from decathlon.tables.claims import Verdict
from decathlon.tables.table import Entry, Table


def number(value: float, metric: dict[str, Any]) -> str:
    """A value in the metric's number of digits; tiny and huge ones, and ``digits: e``, in scientific notation."""
    digits = metric.get("digits", 3)
    if digits == "e" or (value != 0 and not 1e-3 <= abs(value) < 1e6 and "digits" not in metric):
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def cell(entry: Entry | None, metric: dict[str, Any], plus_minus: str = "±", paper: bool = True) -> str:
    """``82.7 ± 0.4 (paper 83.7, -1.0)``; a dash where nothing is finished; ``n=2/3`` where seeds are missing.

    Seeds that finished without a number are counted: ``1 diverged``.
    """
    if entry is None:
        return ""
    lost = ", ".join(
        f"{count} {why}" for count, why in ((entry.diverged, "diverged"), (entry.undefined, "undefined")) if count
    )
    if entry.mean is None:
        text = lost if entry.diverged else f"failed {entry.failed}/{entry.expected}" if entry.failed else "—"
    else:
        text = number(entry.mean, metric)
        if entry.std is not None:
            text += f" {plus_minus} {number(entry.std, metric)}"
        if entry.n < entry.expected:
            text += f" (n={entry.n}/{entry.expected}{', ' + lost if lost else ''})"
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
    return [*table.layout.rows, *(heading_of(table, column) for column in table.columns)]


def heading_of(table: Table, column: tuple[tuple[str, ...], str]) -> str:
    """The heading of a column."""
    values, metric = column
    keys = [
        f"{key}={value}" if key not in ("dataset", "method") else value
        for key, value in zip(table.layout.columns, values)
    ]
    label = table.layout.metrics[metric].get("label", metric)
    return " ".join(keys + ([label] if len(table.metrics) > 1 or not keys else []))


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
    """Print with rich: the claims, then the table, so that the table is what stays on the screen.

    The best of a column is bold. A table that is wider than the screen is folded: one part for each value of its
    first column key, and where that is still too wide, parts of as many columns as fit.
    """
    colours = {"holds": "green", "fails": "red", "undecided": "yellow"}
    if table.layout.note:
        console.print(Padding(f"[dim]{escape(table.layout.note)}[/dim]", (0, 0, 1, 0)), soft_wrap=False)
    for verdict in table.verdicts:
        console.print(_claim(verdict, colours[verdict.verdict]), soft_wrap=False)
    console.print(f"[italic]{escape(caption(table))}[/italic]", soft_wrap=False)
    for columns in folded(table, console.width):
        view = RichTable(header_style="bold")
        for heading in [*table.layout.rows, *(heading_of(table, column) for column in columns)]:
            view.add_column(escape(heading), overflow="fold")
        for row in table.rows:
            if any((row, column, metric) in table.entries for column, metric in columns):
                view.add_row(*row, *(_shown(table, row, column) for column in columns))
        console.print(view, soft_wrap=False)
    if table.verdicts:
        counts = {kind: sum(verdict.verdict == kind for verdict in table.verdicts) for kind in colours}
        said = ", ".join(f"[{colours[kind]}]{count} {kind}[/]" for kind, count in counts.items() if count)
        console.print(f"claims: {said}")


def _claim(verdict: Verdict, colour: str) -> RichTable:
    """A claim in two columns, broken at words."""
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(width=9, justify="right")
    grid.add_column()
    text = f"{escape(verdict.says)}\n[dim]{escape(verdict.check)}: {escape(verdict.why)}[/dim]"
    grid.add_row(f"[{colour}]{verdict.verdict}[/{colour}]", text)
    return grid


def _shown(table: Table, row: tuple[str, ...], column: tuple[tuple[str, ...], str]) -> str:
    entry = table.entries.get((row, *column))
    text = escape(cell(entry, table.layout.metrics[column[1]]))
    return f"[bold]{text}[/bold]" if entry and entry.best else text


def folded(table: Table, width: int) -> list[list[tuple[tuple[str, ...], str]]]:
    """The table's columns in parts that are no wider than ``width`` characters, as far as single columns are not."""
    fixed = 1 + sum(
        3 + max(len(text) for text in (key, *(row[number] for row in table.rows)))
        for number, key in enumerate(table.layout.rows)
    )
    wide = {column: 3 + _width(table, column) for column in table.columns}
    if fixed + sum(wide.values()) <= width:
        return [table.columns]
    groups: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for column in table.columns:
        groups.setdefault(column[0][0] if column[0] else "", []).append(column)
    parts = []
    for columns in groups.values():
        part: list[tuple[tuple[str, ...], str]] = []
        for column in columns:
            if part and fixed + sum(wide[one] for one in part) + wide[column] > width:
                parts.append(part)
                part = []
            part.append(column)
        parts.append(part)
    return parts


def _width(table: Table, column: tuple[tuple[str, ...], str]) -> int:
    """The width of a column: its longest number, and the longest word of its heading."""
    metric = table.layout.metrics[column[1]]
    texts = [cell(table.entries.get((row, *column)), metric) for row in table.rows]
    return max(len(text) for text in (*texts, *heading_of(table, column).split()))


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
