"""Amazon-Book 2017 in CoLLM's recipe, from the files of Amazon Review Data 2018."""

import gzip
import json
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from decathlon.errors import DataError
from decathlon.files import raw_file
from decathlon.progress import track
from decathlon.tasks.cora.log import Log

log = logging.getLogger(__name__)
REVIEWS, ITEMS = "Books_5.json.gz", "meta_Books.json.gz"
DECEMBER = datetime(2017, 12, 1, tzinfo=UTC).timestamp()
BEGIN, END = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2017, 2018))


def amazon_book(root: Path, seed: int = 0, more_than: int = 20) -> Log:
    """Reviews of 2017 by users and of items with more than ``more_than`` of them; label 1 for five stars.

    January to November is training; December is cut in time order into equal halves, validation and test. Rows without
    a title are left out first, and users and items are counted once, before either is filtered.

    Raises:
        DataError: one line, if a file is missing (neither can be downloaded) or broken.
    """
    reviews, items = raw_file(root, [REVIEWS]), raw_file(root, [ITEMS])
    titles = {one["asin"]: one["title"].strip() for one in _lines(items) if (one.get("title") or "").strip()}
    rows, untitled = [], 0
    for one in track(_lines(reviews), f"reading {REVIEWS}"):
        time = int(one["unixReviewTime"])
        if BEGIN <= time < END:
            if one["asin"] in titles:
                rows.append((one["reviewerID"], one["asin"], time, float(one["overall"])))
            else:
                untitled += 1
    by_user, by_item = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
    kept = [row for row in rows if by_user[row[0]] > more_than and by_item[row[1]] > more_than]
    if not kept:
        raise DataError(f"{reviews} has no users and items with more than {more_than} rows in 2017")
    kept.sort(key=lambda row: (row[0], row[2]))
    users: dict[str, int] = {}
    numbers: dict[str, int] = {}
    user = torch.tensor([users.setdefault(row[0], len(users)) for row in kept])
    item = torch.tensor([numbers.setdefault(row[1], len(numbers)) for row in kept])
    times = torch.tensor([float(row[2]) for row in kept], dtype=torch.float64)
    part = (times >= DECEMBER).long()
    late = part.nonzero()[:, 0]
    part[late[times[late].argsort(stable=True)][len(late) // 2 :]] = 2
    report = {"rows": len(rows) + untitled, "without a title": untitled, "too few": len(rows) - len(kept)}
    return Log(
        user, item, torch.tensor([row[3] >= 5 for row in kept]).long(), times, part, len(users), len(numbers),
        [titles[name] for name in numbers], ("books", "book"), report,
    )  # fmt: skip


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, EOFError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is broken ({str(error).splitlines()[0]})") from error
