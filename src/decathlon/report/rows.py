"""Rows of text as a table in the terminal, Markdown, CSV or JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

FORMATS = ("terminal", "md", "csv", "json")
_COLOURS = {"finished": "green", "diverged": "yellow", "running": "blue", "failed": "red", "unreadable": "red"}


def show(rows: Sequence[Mapping[str, str]], keys: Sequence[str], form: str, console: Console) -> str:
    """Print the rows, or return them as text where ``form`` is for a file.

    Args:
        rows: each a mapping of column to text; what a row lacks is empty.
        keys: the columns, in order.
        form: one of :data:`FORMATS`.
    """
    if form == "terminal":
        _print(rows, keys, console)
        return ""
    if form == "json":
        return (
            json.dumps([{key: row.get(key, "") for key in keys} for row in rows], indent=2, ensure_ascii=False) + "\n"
        )
    if form == "csv":
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows([row.get(key, "") for key in keys] for row in rows)
        return sink.getvalue()
    lines = [keys, ["---"] * len(keys), *([row.get(key, "") for key in keys] for row in rows)]
    return "".join("| " + " | ".join(_in_cell(item) for item in line) + " |\n" for line in lines)


def _print(rows: Sequence[Mapping[str, str]], keys: Sequence[str], console: Console) -> None:
    """Aligned columns; rich's own table takes seconds for a thousand rows."""
    # A line is a row, also where a name has a line's end in it.
    rows = [{key: " ".join(text.splitlines()) for key, text in row.items()} for row in rows]
    widths = {key: max(map(cell_len, (key, *(row.get(key, "") for row in rows)))) for key in keys}

    def line(row: Mapping[str, str]) -> str:
        return "  ".join(row.get(key, "") + " " * (widths[key] - cell_len(row.get(key, ""))) for key in keys).rstrip()

    console.print(Text(line({key: key for key in keys}), style="bold"), soft_wrap=True)
    lines = Text("\n".join(map(line, rows)))
    for state, colour in _COLOURS.items():
        if console.is_terminal:
            lines.highlight_regex(rf"(?m)(?<=  ){state}$", colour)
    console.print(lines, soft_wrap=True)


def _in_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
