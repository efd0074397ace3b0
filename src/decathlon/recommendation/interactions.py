"""User-item interactions as tensors, and the items of each user as sorted lists."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interactions:
    """Rows (user, item), with a time and a rating where they are known.

    Args:
        user, item: (n,) int64, from 0.
        users, items: how many there are, those without a row among them.
        time: (n,) float64, in whatever unit; only its order matters. rating: (n,) float32.

    Raises:
        DataError: an id is out of range, or the columns differ in length.
    """

    user: Tensor
    item: Tensor
    users: int
    items: int
    time: Tensor | None = None
    rating: Tensor | None = None

    def __post_init__(self) -> None:
        for name, ids, count in (("user", self.user, self.users), ("item", self.item, self.items)):
            if ids.dim() != 1 or ids.dtype != torch.int64:
                raise DataError(f"{name} ids are {ids.dtype} of shape {tuple(ids.shape)}, not a column of int64")
            if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= count):
                bad = int(((ids < 0) | (ids >= count)).nonzero()[0])
                raise DataError(
                    f"{name} id {int(ids[bad])} in row {bad} is out of range: there are {count} {name}s, from 0"
                )
        for name, column in (("item", self.item), ("time", self.time), ("rating", self.rating)):
            if column is not None and len(column) != len(self.user):
                raise DataError(f"{len(self.user)} users and {len(column)} values of {name}: each row needs one")

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: Tensor) -> "Interactions":
        """Some rows, by position or by a mask; the numbers of users and items stay."""
        return replace(
            self, user=self.user[rows], item=self.item[rows],
            time=None if self.time is None else self.time[rows],
            rating=None if self.rating is None else self.rating[rows],
        )  # fmt: skip

    @cached_property
    def lists(self) -> "ItemLists":
        """The distinct items of each user."""
        return ItemLists.of(self.user, self.item, self.users, self.items)

    @cached_property
    def popularity(self) -> Tensor:
        """(items,) int64: how many rows each item has."""
        return torch.bincount(self.item, minlength=self.items)


@dataclass(frozen=True)
class ItemLists:
    """A sorted list of distinct items for each user, one after the other.

    Args:
        start: (users + 1,) int64; the items of user u are ``item[start[u]:start[u + 1]]``.
        item: (n,) int64. items: how many there are.
    """

    start: Tensor
    item: Tensor
    items: int

    @classmethod
    def of(cls, user: Tensor, item: Tensor, users: int, items: int) -> "ItemLists":
        """From rows in any order; repeated ones count once."""
        keys = torch.unique(user * items + item)
        start = torch.zeros(users + 1, dtype=torch.int64, device=user.device)
        start[1:] = torch.bincount(keys // items, minlength=users).cumsum(0)
        return cls(start, keys % items, items)

    @property
    def users(self) -> int:
        return len(self.start) - 1

    @cached_property
    def count(self) -> Tensor:
        """(users,) int64: the length of each list."""
        return self.start.diff()

    @cached_property
    def user(self) -> Tensor:
        """(n,) int64: whose each entry of ``item`` is."""
        return torch.repeat_interleave(torch.arange(self.users, device=self.item.device), self.count)

    @cached_property
    def keys(self) -> Tensor:
        """(n,) int64, ascending: ``user * items + item``."""
        return self.user * self.items + self.item

    def __getitem__(self, user: int) -> Tensor:
        return self.item[int(self.start[user]) : int(self.start[user + 1])]

    def contains(self, user: Tensor, item: Tensor) -> Tensor:
        """Whether each ``item`` is in the list of its ``user``: bool, of the shape to which both are broadcast."""
        if not len(self.item):
            return torch.zeros(torch.broadcast_shapes(user.shape, item.shape), dtype=torch.bool, device=item.device)
        keys = user * self.items + item
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return self.keys[place] == keys


@dataclass(frozen=True)
class Table:
    """What was read from a file.

    Args:
        rows: the interactions, each pair (user, item) once.
        user_ids, item_ids: the file's name of each user and item, by number.
        extra: other columns that were asked for, (n,) each.
        report: how many rows the file has, and how many were left out and why.
    """

    rows: Interactions
    user_ids: list[Any]
    item_ids: list[Any]
    extra: dict[str, Tensor]
    report: dict[str, int]


def read_interactions(
    path: str | Path,
    user: str = "user",
    item: str = "item",
    time: str | None = None,
    rating: str | None = None,
    extra: Sequence[str] = (),
    items: Sequence[Any] | None = None,
    sep: str = ",",
) -> Table:
    """A CSV file (plain, gzipped or zipped) with one interaction a row. The first row of a repeated pair counts.

    Args:
        user, item, time, rating, extra: names of the columns; ``extra`` are whole numbers.
        items: the items' names by number. Without it, whole numbers from 0 are taken as they are and anything else is
            numbered in sorted order.

    Raises:
        DataError: the file is broken or lacks a column, an item is not among ``items``, or no row is left.
    """
    from decathlon.molecules.csv_files import read_csv  # the reader of tables as people have them

    path = Path(path)
    frame, skipped = read_csv(path, sep=sep)
    wanted = [name for name in (user, item, time, rating, *extra) if name is not None]
    absent = [name for name in wanted if name not in frame.columns]
    if absent:
        raise DataError(f"{path} has no column {', '.join(absent)}; it has {', '.join(map(str, frame.columns))}")
    report = {"rows": len(frame) + skipped, "malformed": skipped}
    numbers = [name for name in (time, rating, *extra) if name is not None]
    frame = _as_numbers(frame, numbers)
    whole = frame.dropna(subset=wanted)
    report["incomplete"] = len(frame) - len(whole)
    single = whole.drop_duplicates(subset=[user, item])
    report["repeated"] = len(whole) - len(single)
    if not len(single):
        raise DataError(f"{path}: no row with {', '.join(wanted)} is left ({report['rows']} in the file)")
    user_number, user_ids = _numbered(single[user], None, f"{path}: {user}")
    item_number, item_ids = _numbered(single[item], items, f"{path}: {item}")

    def column(name: str | None, dtype: torch.dtype) -> Tensor | None:
        return None if name is None else torch.tensor(single[name].to_numpy(), dtype=dtype)

    rows = Interactions(
        user_number, item_number, len(user_ids), len(item_ids),
        column(time, torch.float64), column(rating, torch.float32),
    )  # fmt: skip
    found = {name: torch.tensor(single[name].to_numpy(), dtype=torch.int64) for name in extra}
    left_out = {why: count for why, count in report.items() if why != "rows" and count}
    if left_out:
        what = ", ".join(f"{count} {why}" for why, count in left_out.items())
        log.warning("%s: of %d rows left out: %s", path, report["rows"], what)
    return Table(rows, user_ids, item_ids, found, report)


def _as_numbers(frame: Any, names: Sequence[str]) -> Any:
    import pandas as pd

    return frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce") for name in names})


def _numbered(column: Any, known: Sequence[Any] | None, what: str) -> tuple[Tensor, list[Any]]:
    """Numbers of the entries, and the entry of each number."""
    import pandas as pd

    if known is not None:
        index = pd.Index([str(name) for name in known])
        if index.has_duplicates:
            raise DataError(f"{what}: the id {index[index.duplicated()][0]} is listed twice")
        found = index.get_indexer(column.astype(str))
        if (found < 0).any():
            raise DataError(f"{what} {column.iloc[int((found < 0).argmax())]} is not among the {len(index)} known ids")
        return torch.tensor(found, dtype=torch.int64), list(known)
    if pd.api.types.is_float_dtype(column) and (column % 1 == 0).all():  # a column with gaps is read as floats
        column = column.astype("int64")
    if pd.api.types.is_integer_dtype(column):
        if (column < 0).any():
            raise DataError(f"{what} {int(column.min())} is out of range: ids are whole numbers from 0")
        count = int(column.max()) + 1
        if count > 10_000_000 and count > 100 * column.nunique():
            column = column.astype(str)  # numbers that are names
        else:
            return torch.tensor(column.to_numpy(), dtype=torch.int64), list(range(count))
    codes, names = pd.factorize(column.astype(str), sort=True)
    return torch.tensor(codes, dtype=torch.int64), list(names)


def compact(rows: Interactions) -> tuple[Interactions, Tensor, Tensor]:
    """Number anew the users and items that have a row.

    Returns:
        The rows, and the old number of each new user and item.
    """
    users, user = torch.unique(rows.user, return_inverse=True)
    items, item = torch.unique(rows.item, return_inverse=True)
    return replace(rows, user=user, item=item, users=len(users), items=len(items)), users, items


def core(rows: Interactions, least: int) -> Interactions:
    """The rows of users and items with at least ``least`` rows each, left out again and again until all have; numbers
    stay."""
    while len(rows):
        users = torch.bincount(rows.user, minlength=rows.users) >= least
        items = torch.bincount(rows.item, minlength=rows.items) >= least
        keep = users[rows.user] & items[rows.item]
        if bool(keep.all()):
            break
        rows = rows.select(keep)
    return rows
