"""Training triples (user, taken item, item not taken), each batch a function of (seed, step). No loop is endless."""

from typing import NamedTuple

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.orders import BatchOrder
from decathlon.randomness import generator
from decathlon.recommendation.interactions import ItemLists


class Triples(NamedTuple):
    """(B,) int64 each: a user, an item of its training rows, and one that is not."""

    user: Tensor
    positive: Tensor
    negative: Tensor


class Negatives:
    """Items that a user has not taken, uniformly and exactly, without rejection.

    The r-th item outside a sorted list p_0 < p_1 < ... is r plus the number of t with p_t - t <= r: one binary search.

    Args:
        lists: what each user has taken.
    """

    def __init__(self, lists: ItemLists) -> None:
        self.lists = lists
        self.free = lists.items - lists.count
        place = torch.arange(len(lists.item), device=lists.item.device) - lists.start[lists.user]
        self._stride = lists.items + 1
        self._keys = lists.user * self._stride + lists.item - place

    def of(self, user: Tensor, random: torch.Generator) -> Tensor:
        """One item for each of ``user`` (B,).

        Raises:
            ValueError: a user has taken all items.
        """
        free = self.free[user]
        if bool((free == 0).any()):
            raise ValueError(f"user {int(user[free == 0][0])} has taken all {self.lists.items} items")
        uniform = torch.rand(user.shape, generator=random, dtype=torch.float64, device=random.device).to(user.device)
        rank = (uniform * free).long().minimum(free - 1)
        before = torch.searchsorted(self._keys, user * self._stride + rank, right=True) - self.lists.start[user]
        return rank + before


class _Sampler:
    """What both samplers share: who can be drawn.

    A user who has taken all items has no negative: such users are left out, and counted in ``saturated``.
    """

    def __init__(self, lists: ItemLists, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.lists, self.batch_size, self.seed = lists, batch_size, seed
        self.negatives = Negatives(lists)
        self.saturated = int(((lists.count > 0) & (self.negatives.free == 0)).sum())
        self.users = ((lists.count > 0) & (self.negatives.free > 0)).nonzero()[:, 0]
        if not len(self.users):
            raise DataError("no user has a training item and another item that it has not taken: nothing can be learnt")


class UserSampler(_Sampler):
    """Every user counts the same: distinct users uniformly, then one of each one's items, and one that is not.

    Args:
        lists: training items.
        batch_size: users of a batch; they repeat only if it exceeds the number of users.
        seed: of the draws.
    """

    @property
    def steps_per_epoch(self) -> int:
        """floor(training rows / batch size) + 1, as published."""
        return len(self.lists.item) // self.batch_size + 1

    def batch(self, step: int) -> Triples:
        """The triples of a step, counted from 0 over all epochs."""
        random = generator("user sampler", self.seed, step)
        if self.batch_size <= len(self.users):
            user = self.users[torch.randperm(len(self.users), generator=random)[: self.batch_size]]
        else:
            user = self.users[torch.randint(len(self.users), (self.batch_size,), generator=random)]
        count = self.lists.count[user]
        place = (torch.rand(len(user), generator=random, dtype=torch.float64) * count).long().minimum(count - 1)
        return Triples(user, self.lists.item[self.lists.start[user] + place], self.negatives.of(user, random))


class InteractionSampler(_Sampler):
    """Every training row counts the same: each once an epoch, in a shuffled order, with one negative.

    What fills no whole batch at the end of an epoch is left out of it.
    """

    def __init__(self, lists: ItemLists, batch_size: int, seed: int) -> None:
        super().__init__(lists, batch_size, seed)
        self._rows = (self.negatives.free[lists.user] > 0).nonzero()[:, 0]
        self._order = BatchOrder(len(self._rows), batch_size, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch."""
        return self._order.steps_per_epoch

    def batch(self, step: int) -> Triples:
        """The triples of a step, counted from 0 over all epochs."""
        rows = self._rows[self._order.batch(step)]
        user = self.lists.user[rows]
        random = generator("interaction sampler", self.seed, step)
        return Triples(user, self.lists.item[rows], self.negatives.of(user, random))


SAMPLERS: dict[str, type[UserSampler] | type[InteractionSampler]] = {
    "users": UserSampler,
    "interactions": InteractionSampler,
}


def random_triples(users: int, items: int, size: int, random: torch.Generator) -> Triples:
    """Users and two items each, uniformly over all, whatever was taken; the two may be the same."""
    return Triples(*(torch.randint(count, (size,), generator=random) for count in (users, items, items)))
