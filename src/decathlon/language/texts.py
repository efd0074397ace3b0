"""Documents from text files: plain text, Markdown, JSON lines, each of them also as ``.gz``."""

import glob
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from decathlon.errors import DataError

log = logging.getLogger(__name__)
UNITS = ("file", "paragraph", "heading")
_JSON = (".jsonl", ".json", ".ndjson")
_NO_TEXT = {".png", ".jpg", ".jpeg", ".gif", ".pdf", ".zip", ".tar", ".bin", ".pt", ".npy", ".npz", ".parquet", ".lock"}
_HEADING = re.compile(r"(?m)^ = [^=\n]+ = *$")  # WikiText's, of an article


def text_files(where: str | Path | Sequence[str | Path]) -> list[Path]:
    """The text files of a folder (its subfolders too), of a glob pattern, of a path, or of several of these, sorted.

    Hidden files and what is known to be no text (pictures, archives, arrays) are passed over.

    Raises:
        DataError: one line, if there is none.
    """
    places = [where] if isinstance(where, (str, Path)) else list(where)
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place)
        paths = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(place), recursive=True))
        mine = [p for p in sorted(paths) if p.is_file() and p.suffix not in _NO_TEXT and not p.name.startswith(".")]
        if not mine:
            raise DataError(
                f"there is no text file in {place}: name a folder, a file or a pattern, for example notes/*.txt"
            )
        found.update(dict.fromkeys(mine))
    return list(found)


def read_documents(paths: Sequence[str | Path], unit: str | None = None, field: str = "text") -> Iterator[str]:
    """The documents of text files, in order; empty ones are left out.

    Args:
        unit: what a document of plain text is: a ``file``, a ``paragraph`` (blank lines separate them), or an article
            under a WikiText ``heading``; None: files if there are twenty or more, else paragraphs. In JSON lines each
            line is one.
        field: the key of the text in JSON lines. Lines without it are counted and reported.

    Raises:
        DataError: one line, for a file that cannot be read or is no UTF-8, or for JSON of which no line has the key.
    """
    if unit is not None and unit not in UNITS:
        raise ValueError(f"unit={unit} is unknown; choose {', '.join(UNITS)}")
    unit = unit or ("file" if len(paths) >= 20 else "paragraph")
    for path in map(Path, paths):
        text = _read(path)
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        parts = _from_json(text, path, field) if plain.suffix in _JSON else _parts(text, unit)
        yield from (part for part in parts if part.strip())


def _read(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text (byte {error.start})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _parts(text: str, unit: str) -> list[str]:
    if unit == "file":
        return [text]
    if unit == "paragraph":
        return re.split(r"\n[ \t]*\n", text)
    starts = [match.start() for match in _HEADING.finditer(text)]
    return [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)])]


def _from_json(text: str, path: Path, field: str) -> Iterator[str]:
    good = bad = 0
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            found = json.loads(line)[field]
            if not isinstance(found, str):
                raise TypeError
        except (json.JSONDecodeError, KeyError, TypeError):
            bad += 1
            continue
        good += 1
        yield found
    if bad and not good:
        raise DataError(f"{path}: none of its {bad} lines is JSON with the text key {field!r}")
    if bad:
        log.warning("%s: %d of %d lines have no text %r and are left out", path, bad, good + bad, field)
