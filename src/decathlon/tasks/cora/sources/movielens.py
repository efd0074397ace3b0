"""MovieLens-100K, and MovieLens-1M in CoLLM's time split."""

import csv
import gzip
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.files import find
from decathlon.recommendation.movielens import read_movielens
from decathlon.recommendation.splits import by_time
from decathlon.tasks.cora.log import Log

ROWS_1M = 1_000_209
COMPACT_ROWS = 51_623
SLOTS = {0: range(14, 24), 1: range(24, 29), 2: range(29, 34)}  # months since April 2000, by part


def ml100k(root: Path, seed: int = 0, valid: float = 0.1, test: float = 0.1, least: float = 4.0) -> Log:
    """MovieLens-100K, from RecBole's wheel: label 1 for ratings from ``least``, split at two moments."""
    films = read_movielens(root)
    rows = films.rows
    assert rows.time is not None and rows.rating is not None
    split = by_time(rows, valid, test)
    val_from, test_from = (float(part.time.min()) for part in (split.val, split.test))  # type: ignore[union-attr]
    part = (rows.time >= val_from).long() + (rows.time >= test_from).long()
    titles = [f"{title} ({year})" if year else title for title, year in zip(films.titles, films.years)]
    ids = [[str(number + 1) for number in range(count)] for count in (rows.users, rows.items)]  # the published ones
    return Log(
        rows.user, rows.item, (rows.rating >= least).long(), rows.time, part, rows.users, rows.items, titles,
        ("movies", "movie"), {"rows": len(rows)}, *ids,
    )  # fmt: skip


def ml1m(root: Path, seed: int = 0) -> Log:
    """MovieLens-1M as CoLLM splits it: June 2001 to March 2002, April to August 2002, September 2002 to January 2003.

    Read from ``interactions.csv.gz`` and ``items.csv.gz`` (the split itself, compact) in ``root/ml-1m-collm``, or made
    from GroupLens' ``ml-1m.zip`` (or ``ratings.dat`` and ``movies.dat``) anywhere under ``root``.

    Raises:
        DataError: one line, if neither is there, or rows are missing.
    """
    compact = root / "ml-1m-collm"
    if (compact / "interactions.csv.gz").is_file():
        return _compact(compact)
    ratings, films = _grouplens(root)
    return from_ratings(ratings, films)


def _compact(folder: Path) -> Log:
    try:
        with gzip.open(folder / "interactions.csv.gz", "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with gzip.open(folder / "items.csv.gz", "rt", encoding="utf-8", newline="") as file:
            names = {int(row["iid"]): row["title"] for row in csv.DictReader(file)}
        wanted = ("uid", "iid", "label", "timestamp")
        columns = {name: torch.tensor([int(row[name]) for row in rows]) for name in wanted}
        part = torch.tensor([("train", "valid", "test").index(row["split"]) for row in rows])
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise DataError(f"{folder} is broken ({error})") from error
    if len(rows) != COMPACT_ROWS:
        raise DataError(f"{folder / 'interactions.csv.gz'} has {len(rows)} rows, not {COMPACT_ROWS}")
    users, items = int(columns["uid"].max()), int(columns["iid"].max())
    titles = [names.get(item + 1, "") for item in range(items)]
    return Log(
        columns["uid"] - 1, columns["iid"] - 1, columns["label"], columns["timestamp"].double(), part, users, items,
        titles, report={"rows": len(rows)},
    )  # fmt: skip


def from_ratings(ratings: Tensor, titles: dict[int, str]) -> Log:
    """CoLLM's split of ratings.

    Args:
        ratings: (n, 4) int64: user, item, stars, seconds since 1970. titles: by item.
    """
    moments = [datetime.fromtimestamp(second, UTC) for second in ratings[:, 3].tolist()]
    slots = torch.tensor([(when.year - 2000) * 12 + when.month - 4 for when in moments])
    part = torch.full_like(slots, -1)
    for number, months in SLOTS.items():
        part[(slots >= months.start) & (slots < months.stop)] = number
    kept = part >= 0
    ratings, part = ratings[kept], part[kept]
    order = ratings[:, 3].argsort(stable=True)
    order = order[ratings[order, 0].argsort(stable=True)]
    ratings, part = ratings[order], part[order]
    users, _ = _by_appearance(ratings[:, 0])
    items, names = _by_appearance(ratings[:, 1])
    return Log(
        users, items, (ratings[:, 2] >= 4).long(), ratings[:, 3].double(), part, int(users.max()) + 1, len(names),
        [titles.get(name, "") for name in names],
        report={"rows": len(kept), "outside of the months": int((~kept).sum())},
    )  # fmt: skip


def _by_appearance(ids: Tensor) -> tuple[Tensor, list[int]]:
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(one, len(numbers)) for one in ids.tolist()]), list(numbers)


def _grouplens(root: Path) -> tuple[Tensor, dict[int, str]]:
    """Ratings (n, 4) and titles of the original files."""
    plain = find(root, ["ratings.dat"])
    archive = find(root, ["ml-1m.zip"])
    if plain is not None and plain.with_name("movies.dat").is_file():
        ratings, films = plain.read_bytes(), plain.with_name("movies.dat").read_bytes()
    elif archive is not None:
        try:
            with zipfile.ZipFile(archive) as opened:
                ratings, films = (opened.read(f"ml-1m/{name}.dat") for name in ("ratings", "movies"))
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{archive} is no intact ml-1m.zip") from error
    else:
        raise DataError(
            f"ml-1m.zip not found in {root}; put GroupLens' MovieLens-1M there (data_dir=...), it may not be passed on"
        )
    try:
        numbers = [[int(cell) for cell in line.split("::")] for line in ratings.decode("latin-1").splitlines()]
        table = torch.tensor(numbers)
        titles = {}
        for line in films.decode("latin-1").splitlines():
            found = re.fullmatch(r"(\d+)::(.*)::[^:]*", line)
            if found is None:
                raise ValueError(line[:40])
            titles[int(found[1])] = found[2]
    except ValueError as error:
        raise DataError(f"the files of MovieLens-1M in {root} are broken ({error})") from error
    if tuple(table.shape) != (ROWS_1M, 4):
        raise DataError(f"ratings.dat has {len(table)} rows, not {ROWS_1M}")
    return table, titles
