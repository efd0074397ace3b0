"""What each row's user had liked before it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Histories:
    """For each row the earlier positive items of its user, oldest first.

    All positives of all users stand in one list, ``item``, user by user in the order of time; a row's history is the
    part of it from ``first`` to ``end``.

    attributes:
        item: (positives,) int64. first, end: (rows,) int64.
    """

    item: Tensor
    first: Tensor
    end: Tensor

    def __len__(self) -> int:
        return len(self.end)

    def __getitem__(self, row: int) -> Tensor:
        return self.item[int(self.first[row]) : int(self.end[row])]

    @property
    def length(self) -> Tensor:
        """(rows,) int64."""
        return self.end - self.first

    def last(self, rows: Tensor, count: int, padding: int = 0) -> tuple[Tensor, Tensor]:
        """The last ``count`` items of rows, oldest first, padded on the right.

        Returns:
            items (rows, count) int64, and mask (rows, count), true where there is an item.
        """
        end = self.end[rows]
        first = torch.maximum(self.first[rows], end - count)
        place = first[:, None] + torch.arange(count)
        mask = place < end[:, None]
        if not len(self.item):
            return torch.full(place.shape, padding), mask
        found = self.item[place.clamp(max=len(self.item) - 1)]
        return torch.where(mask, found, padding), mask


def histories(users: Tensor, items: Tensor, labels: Tensor, order: Tensor | None = None) -> Histories:
    """Histories of rows, whatever their split: an earlier row counts, the row itself does not.

    Args:
        users, items: (n,) int64. labels: (n,), 1 for positive.
        order: (n,), when each row was, a time say; rows of one user and one moment count in the order of their
            position. None: the position alone.
    """
    rows = torch.arange(len(users))
    by_time = rows if order is None else order.argsort(stable=True)
    sorted_rows = by_time[users[by_time].argsort(stable=True)]
    positive = (labels[sorted_rows] == 1).long()
    before = positive.cumsum(0) - positive
    user = users[sorted_rows]
    start = torch.ones(len(user), dtype=torch.bool)
    start[1:] = user[1:] != user[:-1]
    own = before[start][start.cumsum(0) - 1] if len(user) else before
    first, end = torch.empty_like(rows), torch.empty_like(rows)
    first[sorted_rows], end[sorted_rows] = own, before
    return Histories(items[sorted_rows[positive.bool()]], first, end)
