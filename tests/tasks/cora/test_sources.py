"""MovieLens-1M from the original files, Amazon-Book, on a few rows: months, filters, halves of December."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from decathlon.errors import DataError
from decathlon.tasks.cora.sources import amazon, movielens


def at(year: int, month: int, day: int = 2) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


def test_the_months_of_movielens_1m() -> None:
    months = [(2001, 5), (2001, 6), (2002, 3), (2002, 4), (2002, 8), (2002, 9), (2003, 1), (2003, 2)]
    rows = [[user, n + 50, 3 + (n + user) % 3, at(*month)] for user in (9, 4) for n, month in enumerate(months)]
    log = movielens.from_ratings(torch.tensor(rows), {item: f"Film {item}" for item in range(50, 58)})
    assert log.part.tolist() == [0, 0, 1, 1, 2, 2] * 2 and log.report["outside of the months"] == 4
    assert log.users.tolist() == [0] * 6 + [1] * 6  # sorted by user, numbered by appearance
    assert log.titles[0] == "Film 51" and log.item_count == 6


def test_missing_or_broken_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ml-1m\.zip not found"):
        movielens.ml1m(tmp_path)
    (tmp_path / "ml-1m.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"no intact ml-1m\.zip"):
        movielens.ml1m(tmp_path)
    with pytest.raises(DataError, match=r"Books_5\.json\.gz not found"):
        amazon.amazon_book(tmp_path)


def test_amazon_book(tmp_path: Path) -> None:
    reviews = []
    for user in ("a", "b", "c"):
        for n in range(24):
            month, day = (12, 1 + n) if n >= 20 else (1 + n % 11, 3)
            reviews.append((user, f"i{n % 2}", at(2017, month, day), 5.0 if (n + ord(user)) % 3 else 4.0))
    reviews += [("d", "i0", at(2017, 3), 5.0), ("a", "i1", at(2016, 3), 5.0), ("a", "untitled", at(2017, 4), 5.0)]
    with gzip.open(tmp_path / amazon.REVIEWS, "wt") as file:
        for user, item, time, stars in reviews:
            file.write(json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": stars}) + "\n")
    with gzip.open(tmp_path / amazon.ITEMS, "wt") as file:
        for item, title in (("i0", "Emma"), ("i1", " Persuasion "), ("untitled", "")):
            file.write(json.dumps({"asin": item, "title": title}) + "\n")
    log = amazon.amazon_book(tmp_path)
    assert log.report == {"rows": 74, "without a title": 1, "too few": 1} and log.user_count == 3
    assert [int((log.part == part).sum()) for part in range(3)] == [60, 6, 6]
    assert float(log.times[log.part == 1].max()) <= float(log.times[log.part == 2].min())
    assert log.words == ("books", "book") and set(log.titles) == {"Emma", "Persuasion"}
    assert float(log.labels.float().mean()) == pytest.approx(2 / 3, abs=0.02)
