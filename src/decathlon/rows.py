"""Rows that survive a kill: one line of JSON per case of a test, in a file of its own for each process."""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from decathlon.errors import DataError

log = logging.getLogger(__name__)
Row = dict[str, Any]


def rows_path(folder: str | Path, rank: int = 0) -> Path:
    """Where process ``rank`` writes its rows."""
    return Path(folder) / f"cases-{rank}.jsonl"


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows, in one write, so that an interruption can cut off the end of the last line at most.

    JSON has no NaN and no infinity: such numbers are written as null, and a warning says so.
    """
    text = ""
    for row in rows:
        odd: list[str] = []
        finite = _finite(row, "", odd)
        if odd:
            more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
            log.warning("case %s: not finite, written as null: %s%s", row.get("id"), ", ".join(odd[:3]), more)
        text += json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()


def _finite(value: Any, place: str, odd: list[str]) -> Any:
    """``value`` with null for every number that is not finite; their places are added to ``odd``."""
    if isinstance(value, float) and not math.isfinite(value):
        odd.append(place)
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{place}.{key}".lstrip("."), odd) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{place}[{index}]", odd) for index, item in enumerate(value)]
    return value


def mend(path: Path) -> None:
    """Remove a last line that was cut off when its process died."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)


def read_rows(folder: str | Path) -> list[Row]:
    """The rows of all processes, each case once, sorted by case id as text.

    A sampler that gives every process equally many cases repeats some; the first row found counts. A line that was cut
    off at the end of a file is left out.

    Raises:
        DataError: for a line in the middle of a file that is not JSON.
    """
    rows: dict[str, Row] = {}
    for path in sorted(Path(folder).glob("cases-*.jsonl")):
        for row in _lines(path):
            rows.setdefault(row["id"], row)
    return [rows[key] for key in sorted(rows)]


def _lines(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                text = f"{path}, line {number}: {error}; remove the line to evaluate its case anew"
                raise DataError(text) from error
