"""A recommender for the users and items of one's own files: scores of pairs, and the best items of a user."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decathlon import trained
from decathlon.errors import DataError
from decathlon.recommendation.interactions import ItemLists
from decathlon.recommendation.ranking import inner_products, top_items

if TYPE_CHECKING:
    from decathlon.tasks.ckd.data import MultimodalData

log = logging.getLogger(__name__)
TOP = 10  # items of a row that asks for no other number
SEPARATOR = "|"


class Trained:
    """What a job of task=ckd has trained, or what it predicts without training.

    Ids are those of the training file, as texts or numbers.

    Attributes:
        user_ids, item_ids: of each row of ``users`` (nu, D) and ``items`` (ni, D); a score is an inner product.
        seen: the items of each user in the training file, those that were held out among them.
    """

    def __init__(self, state: Mapping[str, Any], columns: tuple[str, str] = ("user", "item")) -> None:
        self.users, self.items = state["users"], state["items"]
        self.user_ids = _ids(state["user_ids"], len(self.users))
        self.item_ids = _ids(state["item_ids"], len(self.items))
        self.seen = ItemLists(state["seen_start"], state["seen_item"], len(self.items))
        self._columns = columns
        taught = state["taught"].tolist()
        self._users = {str(name): place for place, name in enumerate(self.user_ids) if taught[place]}
        self._items = {str(name): place for place, name in enumerate(self.item_ids)}

    def scores(self, users: Sequence[Any], items: Sequence[Any]) -> Tensor:
        """(n,) float32 of n pairs; NaN, and a warning, for an unknown user or item.

        A user is known who has an interaction to train on.
        """
        if len(users) != len(items):
            raise ValueError(f"{len(users)} users and {len(items)} items: one of each for a pair")
        found = torch.full((len(users),), torch.nan)
        faults = [self._fault(user, item) for user, item in zip(users, items)]
        good = [place for place, fault in enumerate(faults) if not fault]
        odd = next((fault for fault in faults if fault), "")
        if odd:
            log.warning("%d of %d pairs are unknown, for instance %s", len(users) - len(good), len(users), odd)
        if good:
            found[good] = self._scores([users[place] for place in good], [items[place] for place in good])
        return found

    def recommend(self, user: Any, k: int = 20, exclude_seen: bool = True) -> list[Any]:
        """The ids of the best items, best first; fewer than k where so many are not left.

        Args:
            exclude_seen: without the user's items in the training file.

        Raises:
            DataError: the user is unknown. ValueError: k is below 1.
        """
        fault = self._fault(user)
        if fault:
            raise DataError(fault)
        return self._best([self._users[str(user)]], k, exclude_seen)[0]

    def _fault(self, user: Any, item: Any = None) -> str:
        if str(user) not in self._users:
            return f"user {user} is unknown to the training"
        return f"item {item} is unknown" if item is not None and str(item) not in self._items else ""

    def _scores(self, users: Sequence[Any], items: Sequence[Any]) -> Tensor:
        u, i = ([table[str(name)] for name in names] for table, names in ((self._users, users), (self._items, items)))
        return (self.users[u] * self.items[i]).sum(1)

    def _best(self, users: list[int], k: int, exclude_seen: bool) -> list[list[Any]]:
        if k < 1:
            raise ValueError(f"k={k} must be at least 1")
        seen = self.seen
        if not exclude_seen:
            seen = ItemLists(torch.zeros_like(seen.start), seen.item[:0], seen.items)
        found = top_items(inner_products(self.users, self.items), seen, torch.tensor(users), k)
        return [[self.item_ids[place] for place in row if place >= 0] for row in found.tolist()]

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with the columns ``user`` and ``item``: ``score``; with ``user`` alone: ``items``, the best ones.

        They have ``|`` between them. How many is said by a column ``k``, or else 10.
        """
        user, item = self._columns
        if rows and user not in rows[0]:
            raise DataError(f"the table has no column {user}; its columns: {', '.join(rows[0])}")
        return self._pairs(rows, user, item) if rows and item in rows[0] else self._lists(rows, user)

    def _pairs(self, rows: list[trained.Row], user: str, item: str) -> list[dict[str, Any] | str]:
        faults = [self._fault(row[user], row[item]) for row in rows]
        good = [row for row, fault in zip(rows, faults) if not fault]
        scores = iter(self._scores([row[user] for row in good], [row[item] for row in good]).tolist())
        found: list[dict[str, Any] | str] = []
        for fault in faults:
            value = math.nan if fault else next(scores)
            finite = {"score": value} if math.isfinite(value) else "its score is not finite: the training diverged"
            found.append(fault or finite)
        return found

    def _lists(self, rows: list[trained.Row], user: str) -> list[dict[str, Any] | str]:
        found: list[dict[str, Any] | str] = []
        wanted: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            text = row.get("k") or str(TOP)
            count = int(text) if text.isdecimal() else 0
            fault = self._fault(row[user]) or ("" if count else f"k={text} is no number of items")
            found.append(fault)
            if not fault:
                wanted.setdefault(count, []).append(place)
        for count, places in wanted.items():
            best = self._best([self._users[rows[place][user]] for place in places], count, exclude_seen=True)
            for place, items in zip(places, best):
                none = "no item is left for this user, or its scores are not finite"
                found[place] = {"items": SEPARATOR.join(map(str, items))} if items else none
        return found


def _ids(names: list[Any] | None, count: int) -> list[Any]:
    return list(range(count)) if names is None else names[:count]


def _named(names: list[Any] | None) -> list[Any] | None:
    """None for names that are the numbers from 0."""
    return None if names is None or names == list(range(len(names))) else names


def keep(folder: Path, vectors: tuple[Tensor, Tensor], data: "MultimodalData") -> None:
    """Write what ``load`` reads: vectors, ids, and which items each user has."""
    parts = (data.train, data.val, data.test)
    user, item = (torch.cat([getattr(part, name) for part in parts]) for name in ("user", "item"))
    seen = ItemLists.of(user, item, data.train.users, data.train.items)
    state = {
        "users": vectors[0], "items": vectors[1], "user_ids": _named(data.user_ids), "item_ids": _named(data.item_ids),
        "seen_start": seen.start, "seen_item": seen.item, "taught": data.train.count > 0,
    }  # fmt: skip
    trained.save(folder, state)


def load(folder: Path, config: Mapping[str, Any]) -> Trained:
    """What ``MultimodalRecommender.export`` has written."""
    source = config["dataset"].get("source") or {}
    return Trained(trained.state_of(folder), (str(source.get("user") or "user"), str(source.get("item") or "item")))
