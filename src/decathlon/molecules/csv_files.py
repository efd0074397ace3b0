"""CSV files as people have them, as a pandas frame: other separators and encodings, trailing commas, no header."""

import csv
import gzip
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decathlon.errors import DataError

_HEAD = 2**20  # bytes in which the header and the first row must end


def read_csv(
    path: Path,
    member: str | None = None,
    columns: Sequence[str] | None = None,
    sep: str = ",",
    encoding: str = "utf-8",
) -> tuple[Any, int]:
    """A CSV file as a frame with the columns of its header, and how many rows were skipped for having more fields.

    Empty fields at the end of a row or of the header (trailing commas) do not count.

    Args:
        path: plain, gzipped, or a zip archive. member: path of the CSV inside the archive; its first file by default.
        columns: names of the columns of a file that has no header.

    Raises:
        DataError: the file is corrupt or cannot be read so; names it and says what may help.
    """
    import pandas as pd

    try:
        content = _bytes(path, member)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} is corrupt ({error}); delete it and fetch it again") from error
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        before, rows = _first_rows(content, sep, encoding)
        names, surplus = _columns(path, rows, columns)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            more = [f"\0more {i}" for i in range(surplus)]  # one name is spared for every surplus field
            frame = pd.read_csv(
                io.BytesIO(content), sep=sep, encoding=encoding, names=[*names, *more], header=None,
                skiprows=before + 1 if columns is None else 0, index_col=False, on_bad_lines="warn", low_memory=False,
            )  # fmt: skip
    except UnicodeError as error:
        other = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise DataError(
            f"{path} is no readable CSV table: it is not in the encoding {encoding.removesuffix('-sig')}; "
            f"give its source the right one, for instance encoding: {other}"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise DataError(f"{path} is no readable CSV table ({str(error).splitlines()[0]})") from error
    skipped = sum(len(re.findall("Skipping line", str(warning.message))) for warning in caught)
    overfull = frame[more].notna().any(axis=1)
    return frame.loc[~overfull, names].reset_index(drop=True), skipped + int(overfull.sum())


def _first_rows(content: bytes, sep: str, encoding: str) -> tuple[int, list[list[str]]]:
    """How many empty rows there are at the start, and the first two rows that are not."""
    errors = "ignore" if len(content) > _HEAD else "strict"  # a character may be cut in two at the end
    text = content[:_HEAD].decode(encoding, errors=errors)
    before, rows = 0, []
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=sep):
        if row:
            rows.append([field.strip() for field in row])
        elif not rows:
            before += 1
        if len(rows) == 2:
            break
    return before, rows


def _columns(path: Path, rows: list[list[str]], columns: Sequence[str] | None) -> tuple[list[str], int]:
    """Names of the columns, and how many more fields a row may have."""
    if not rows:
        raise DataError(f"{path} is no readable CSV table: it is empty")
    if columns is not None:
        if len(_filled(rows[0])) > len(columns):
            raise DataError(
                f"{path} has {len(_filled(rows[0]))} fields in its first row, but its source names the columns "
                f"{', '.join(columns)}; give it columns: [smiles, …] with one name for each"
            )
        return list(columns), max(1, max(map(len, rows)) - len(columns))
    names = [name or f"column {i}" for i, name in enumerate(_filled(rows[0]))]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise DataError(f"{path} has two columns {twice[0]}; rename one")
    return names, max(1, max(map(len, rows)) - len(names))


def _filled(row: list[str]) -> list[str]:
    """A row without the empty fields at its end."""
    return row[: max((i + 1 for i, field in enumerate(row) if field), default=0)]


def _bytes(path: Path, member: str | None) -> bytes:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            content = archive.read(member or archive.namelist()[0])
        return gzip.decompress(content) if (member or "").endswith(".gz") else content
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
