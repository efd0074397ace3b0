"""Training, validation and test rows of interactions."""

from typing import NamedTuple

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.randomness import generator
from decathlon.recommendation.interactions import Interactions

FEW = 10


class Split(NamedTuple):
    """Three parts of one set of interactions, with the same numbers of users and items."""

    train: Interactions
    val: Interactions
    test: Interactions


def by_column(rows: Interactions, part: Tensor) -> Split:
    """A published split: 0 is training, 1 validation, 2 test.

    Raises:
        DataError: another number is among ``part`` (n,).
    """
    odd = (part < 0) | (part > 2)
    if bool(odd.any()):
        raise DataError(f"split {int(part[odd][0])}: 0 is training, 1 validation, 2 test")
    return Split(*(rows.select(part == which) for which in range(3)))


def per_user(rows: Interactions, seed: int) -> Split:
    """The random split of the LATTICE family: about 8:1:1 of each user's rows.

    Of a user with fewer than 10 rows 2 are held out, of one with n >= 10 floor(n / 5). The first half of them, rounded
    down, is test, the rest validation. Users with fewer than 3 rows keep all of them for training (ours).
    """
    count = torch.bincount(rows.user, minlength=rows.users)
    held = torch.where(count < FEW, 2, count // 5) * (count >= 3)
    shuffled = torch.randperm(len(rows), generator=generator("per-user split", seed))
    return _held_out(rows, shuffled, held // 2, held)


def leave_one_out(rows: Interactions, seed: int = 0) -> Split:
    """Each user's last row is test and the last but one validation: by time, or at random where no time is known.

    Rows of equal time are ordered at random. Users with fewer than 3 rows keep all of them for training.
    """
    held = 2 * (torch.bincount(rows.user, minlength=rows.users) >= 3)
    order = torch.randperm(len(rows), generator=generator("leave one out", seed))
    if rows.time is not None:
        order = order[torch.argsort(rows.time[order], descending=True, stable=True)]
    return _held_out(rows, order, held // 2, held)


def _held_out(rows: Interactions, order: Tensor, test: Tensor, held: Tensor) -> Split:
    """Of each user the first ``test`` rows in ``order`` are test, those up to ``held`` validation; rows keep theirs."""
    grouped = order[torch.argsort(rows.user[order], stable=True)]
    user = rows.user[grouped]
    start = torch.bincount(user, minlength=rows.users).cumsum(0) - torch.bincount(user, minlength=rows.users)
    rank = torch.empty_like(grouped)
    rank[grouped] = torch.arange(len(grouped)) - start[user]
    part = torch.where(rank < test[rows.user], 2, torch.where(rank < held[rows.user], 1, 0))
    return by_column(rows, part)


def by_time(rows: Interactions, val: float = 0.1, test: float = 0.1) -> Split:
    """Split all rows at two moments: the last share ``test`` of them is test, the share ``val`` before it validation.

    Rows of one moment fall on one side. No user need be in all parts.

    Raises:
        DataError: the rows have no time. ValueError: the shares leave nothing.
    """
    if rows.time is None:
        raise DataError("these interactions have no time to split by")
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(f"val={val} and test={test} are shares of the rows; together they must be below 1")
    ordered = rows.time.sort().values
    cuts = [min(int((1 - share) * len(rows)), len(rows) - 1) for share in (val + test, test)]
    begin = [ordered[cut] if share else torch.inf for cut, share in zip(cuts, (val + test, test))]
    part = (rows.time >= begin[0]).long() + (rows.time >= begin[1]).long()
    return by_column(rows, part)
