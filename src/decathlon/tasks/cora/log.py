"""A log of exposed rows (user, item, label, time) with titles and a split: what every method of the task sees."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.randomness import generator
from decathlon.recommendation import ctr
from decathlon.recommendation.histories import Histories, histories

log = logging.getLogger(__name__)
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Log:
    """Rows in order: user by user or by time, as histories need them.

    attributes:
        users, items: (n,) int64, from 0. labels: (n,) int64, 0 or 1. times: (n,) float64; only their order matters.
        part: (n,) int64, 0 for training, 1 for validation, 2 for test.
        user_count, item_count: how many there are.
        titles: of each item. words: what items are called, plural and singular.
        report: how many rows the source had, and how many were left out and why.
        user_ids, item_ids: what the source calls each; None: by its number.
    """

    users: Tensor
    items: Tensor
    labels: Tensor
    times: Tensor
    part: Tensor
    user_count: int
    item_count: int
    titles: list[str]
    words: tuple[str, str] = ("movies", "movie")
    report: Mapping[str, int] = field(default_factory=dict)
    user_ids: list[str] | None = None
    item_ids: list[str] | None = None

    def __post_init__(self) -> None:
        if len(self.titles) != self.item_count:
            raise DataError(f"{self.item_count} items but {len(self.titles)} titles")
        used = torch.bincount(self.items, minlength=self.item_count)
        for item in used.nonzero()[:, 0].tolist():
            if not self.titles[item].strip():
                count = int(used[item])
                raise DataError(f"item {item} has {count} rows and no title: give it one, or leave its rows out")
        for number, name in enumerate(PARTS):
            rows = self.rows(number)
            if not len(rows):
                raise DataError(f"the {name} split has no rows, and so no users")
            ctr.check_classes(self.labels[rows], name)

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, part: int) -> Tensor:
        """Positions of the rows of a part, (m,) int64."""
        return (self.part == part).nonzero()[:, 0]

    @cached_property
    def histories(self) -> Histories:
        """The earlier positive items of each row's user, whatever their split."""
        return histories(self.users, self.items, self.labels, self.times)

    @cached_property
    def warm(self) -> Tensor:
        """Which rows have a user and an item that training has, (n,) bool."""
        train = self.rows(0)
        return ctr.warm(self.users[train], self.items[train], self.users, self.items)

    def asked(self, users: Tensor, items: Tensor, moments: Tensor | None = None) -> "Log":
        """The log with rows at its end that belong to no part and change no history: pairs that somebody asks about.

        Args:
            users, items: (m,) int64, of this log.
            moments: (m,), what a user has liked before it is the pair's history; None: all that is in the log.
        """
        count = len(users)
        times = torch.full((count,), math.inf, dtype=torch.float64)
        if moments is not None:  # at a moment, and not after it
            times = moments.double().nextafter(-times)
        return replace(
            self, users=torch.cat([self.users, users]), items=torch.cat([self.items, items]),
            labels=torch.cat([self.labels, torch.zeros(count, dtype=torch.int64)]),
            times=torch.cat([self.times, times]),
            part=torch.cat([self.part, torch.full((count,), len(PARTS))]),
        )  # fmt: skip

    @property
    def content(self) -> list[object]:
        """What a cache of anything that is learnt from the rows is keyed by."""
        return [self.users, self.items, self.labels, self.times, self.part, self.user_count, self.item_count]


@dataclass(frozen=True)
class Chosen:
    """Positions in the log of the rows that the language model sees, (m,) int64 each."""

    train: Tensor
    valid: Tensor
    test: Tensor


def choose(
    rows: Log, train: int | None = None, valid: int | None = None, test_users: int | None = None,
    test_rows: int | None = None, seed: int = 0,
) -> Chosen:  # fmt: skip
    """Draw rows of each part.

    Args:
        train, valid: how many rows; None: all.
        test_users: how many users with ``test_rows`` rows each; None: all rows of the test part.
        test_rows: of each such user, drawn among its rows; users with fewer are not drawn.
        seed: of the draws.

    Raises:
        DataError: one line, if no test user has so many rows.
    """

    def some(part: int, count: int | None) -> Tensor:
        found = rows.rows(part)
        if count is None or count >= len(found):
            return found
        order = torch.randperm(len(found), generator=generator("cora rows", seed, part))
        return found[order[:count]].sort().values

    test = rows.rows(2)
    if test_users is not None:
        of_user = max(test_rows or 1, 1)
        order = torch.randperm(len(test), generator=generator("cora test rows", seed))
        shuffled = test[order]
        grouped = shuffled[rows.users[shuffled].argsort(stable=True)]
        user = rows.users[grouped]
        size = torch.bincount(user, minlength=rows.user_count)
        place = torch.arange(len(grouped)) - (size.cumsum(0) - size)[user]
        able = (size >= of_user).nonzero()[:, 0]
        if not len(able):
            raise DataError(f"no test user has {of_user} rows: lower test_rows, or set test_users=null")
        if len(able) < test_users:
            log.warning("only %d test users have %d rows; all of them are taken", len(able), of_user)
        drawn = able[torch.randperm(len(able), generator=generator("cora test users", seed))[:test_users]]
        test = grouped[torch.isin(user, drawn) & (place < of_user)].sort().values
    chosen = Chosen(some(0, train), some(1, valid), test)
    for name in PARTS:
        ctr.check_classes(rows.labels[getattr(chosen, name)], f"chosen {name}")
    return chosen
