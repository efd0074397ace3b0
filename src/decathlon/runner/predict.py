"""``decathlon predict``: a table in, the same table with a trained object's answers out, row by row."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decathlon import files, trained
from decathlon.errors import ConfigError, DataError
from decathlon.runner.records import find


def predict(job: str, table: str, out: str | None, root: Path) -> tuple[int, list[str]]:
    """Answer every row of a CSV table, or every entry of a file of another kind, if the job can (``predict_file``).

    Rows keep their order and number. A row that cannot be answered has empty fields in the new columns.

    Args:
        job: a folder, or an id in the results folder ``root``.
        out: the file to write; None: standard output.

    Returns:
        The number of rows, and what is wrong with which: ``line 3: ...``, or ``entry 3: ...``, counted from 0.

    Raises:
        UserError: in one line, there is no such job or table, or the job answers no tables.
    """
    given = Path(job).expanduser()
    found = trained.load(given if given.is_dir() else find(job, root).folder)
    if not hasattr(found, "predict_rows"):
        raise ConfigError(f"{job} answers no tables: decathlon.load gives a {type(found).__name__} (docs/use.md)")
    path = Path(table).expanduser()
    answers: list[dict[str, Any] | str]
    if path.suffix == ".pt" and hasattr(found, "predict_file"):
        answers = found.predict_file(path)
        header, rows = ["entry"], [{"entry": str(place)} for place in range(len(answers))]
        names_of_rows = [f"entry {place}" for place in range(len(answers))]
    else:
        header, rows, lines, faults = _read(path)
        good = [place for place, fault in enumerate(faults) if not fault]
        answers = list(faults)
        for place, answer in zip(good, found.predict_rows([rows[place] for place in good]), strict=True):
            answers[place] = answer
        names_of_rows = [f"line {line}" for line in lines]
    new = list(dict.fromkeys(key for answer in answers if isinstance(answer, dict) for key in answer))
    twice = [name for name in new if name in header]
    names = {name: f"predicted {name}" if name in twice else name for name in new}
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([*header, *names.values()])
    for row, answer in zip(rows, answers):
        told = answer if isinstance(answer, dict) else {}
        writer.writerow([*(row.get(name, "") for name in header), *(_text(told.get(name)) for name in new)])
    if out is None:
        sys.stdout.write(sink.getvalue())
    else:
        files.write_text(out, sink.getvalue())
    said = [f"{name}: {answer}" for name, answer in zip(names_of_rows, answers) if isinstance(answer, str)]
    return len(rows), said


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> tuple[list[str], list[trained.Row], list[int], list[str]]:
    """Header, rows, their line numbers, and of each what is wrong with it (mostly nothing)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8") from error
    first = text.split("\n", 1)[0]
    sep = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise DataError(f"{path} has no header")
        rows, lines, faults = [], [], []
        for fields in reader:
            if not fields:
                continue
            rows.append(dict(zip(header, [field.strip() for field in fields])))
            lines.append(reader.line_num)
            wrong = len(fields) != len(header)
            faults.append(f"{len(fields)} fields, the header has {len(header)}" if wrong else "")
    except csv.Error as error:
        raise DataError(f"{path} is no CSV table ({error})") from error
    return header, rows, lines, faults


def say(count: int, said: Sequence[str], most: int = 10) -> list[str]:
    """The lines about rows that could not be answered: the first ten, and how many there are."""
    if not said:
        return []
    rest = [f"and {len(said) - most} more"] if len(said) > most else []
    return [f"{len(said)} of {count} rows could not be answered:", *said[:most], *rest]
