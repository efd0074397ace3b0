"""Click prediction over exposed rows: AUC, AUC per user, the baseline of shrunk means, warm and cold rows.

A row is a user, an item and a label 0 or 1; scores are any numbers, higher for likelier.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from decathlon.errors import DataError


def _checked(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores, labels = torch.as_tensor(scores).double().cpu(), torch.as_tensor(labels).cpu()
    if scores.dim() != 1 or scores.shape != labels.shape:
        raise ValueError(f"{tuple(scores.shape)} scores and {tuple(labels.shape)} labels: one of each per row")
    if scores.isnan().any():
        raise ValueError(f"the score of row {int(scores.isnan().nonzero()[0])} is not a number")
    if ((labels != 0) & (labels != 1)).any():
        raise ValueError("labels must be 0 or 1")
    return scores, labels.bool()


def _grouped(scores: Tensor, labels: Tensor, groups: Tensor, count: int) -> Tensor:
    """AUC in each of ``count`` groups, (count,); not a number where a group has one class only."""
    order = scores.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    group, score, label = groups[order], scores[order], labels[order]
    size = torch.bincount(group, minlength=count)
    place = torch.arange(len(group)) - (size.cumsum(0) - size)[group]
    fresh = torch.ones(len(group), dtype=torch.bool)
    fresh[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    tie = fresh.cumsum(0) - 1  # rows of one group and score share their mean rank
    ties = torch.bincount(tie)
    rank = (torch.zeros(len(ties), dtype=torch.float64).index_add(0, tie, place.double() + 1) / ties)[tie]
    positive = torch.zeros(count, dtype=torch.float64).index_add(0, group, label.double())
    above = torch.zeros(count, dtype=torch.float64).index_add(0, group, rank * label)
    return (above - positive * (positive + 1) / 2) / (positive * (size - positive))


def auc(scores: Tensor, labels: Tensor) -> float:
    """The share of (positive, negative) pairs in the right order, ties count 1/2; all rows pooled.

    Args:
        scores, labels: (n,); labels 0 or 1.

    Returns:
        not a number where there is one class only.

    Raises:
        ValueError: one line, for scores that are not numbers, or labels that are no classes.
    """
    scores, positive = _checked(scores, labels)
    if not len(scores):
        return float("nan")
    return float(_grouped(scores, positive, torch.zeros(len(scores), dtype=torch.int64), 1)[0])


class UserAUC(NamedTuple):
    """Mean AUC of users, and of how many; the others have rows of one class only."""

    mean: float
    users: int


def uauc(scores: Tensor, labels: Tensor, users: Tensor) -> UserAUC:
    """The unweighted mean of AUC over the users that have both classes; the others are left out, not counted as 1/2.

    Args:
        users: (n,), whose row each is. scores, labels: as in :func:`auc`.

    Raises:
        ValueError: as in :func:`auc`.
    """
    scores, positive = _checked(scores, labels)
    if len(users) != len(scores):
        raise ValueError(f"{len(scores)} scores and {len(users)} users: one of each per row")
    if not len(scores):
        return UserAUC(float("nan"), 0)
    names, number = torch.unique(torch.as_tensor(users).cpu(), return_inverse=True)
    each = _grouped(scores, positive, number, len(names))
    whole = each[~each.isnan()]
    return UserAUC(float(whole.mean()) if len(whole) else float("nan"), len(whole))


def check_classes(labels: Tensor, what: str) -> None:
    """Raise a one-line DataError unless ``labels`` of the rows ``what`` have both classes."""
    for value, word in ((0, "negative"), (1, "positive")):
        if not (labels == value).any():
            raise DataError(f"the {what} rows have no {word} label: {len(labels)} rows of one class decide nothing")


class ShrunkMeans:
    """score = shrunk mean of the item + shrunk mean of the user: (sum + a m) / (n + a), m the mean of all.

    It knows nothing of who likes what, and is stronger on exposed rows than most published models.

    Args:
        users, items, labels: of the training rows, (n,).
        user_count, item_count: how many there are, those without a row among them (they get m).
        shrink: a, in rows.

    Raises:
        ValueError: one line, if there is no row, or the shrinkage is not positive.
    """

    def __init__(
        self, users: Tensor, items: Tensor, labels: Tensor, user_count: int, item_count: int, shrink: float = 5.0
    ) -> None:
        if not len(labels):
            raise ValueError("there are no training rows to take means of")
        if shrink <= 0:
            raise ValueError(f"shrink={shrink} must be positive")
        self.mean = float(labels.double().mean())
        self.of_user = self._means(users, labels.double(), user_count, shrink)
        self.of_item = self._means(items, labels.double(), item_count, shrink)

    def _means(self, ids: Tensor, labels: Tensor, count: int, shrink: float) -> Tensor:
        total = torch.zeros(count, dtype=torch.float64).index_add(0, ids, labels)
        return (total + shrink * self.mean) / (torch.bincount(ids, minlength=count) + shrink)

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of rows, (n,) float64."""
        return self.of_user[users] + self.of_item[items]


def warm(train_users: Tensor, train_items: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """Which rows are warm: their user and their item both occur in training. (n,) bool; the others are cold."""
    return torch.isin(users, train_users) & torch.isin(items, train_items)
