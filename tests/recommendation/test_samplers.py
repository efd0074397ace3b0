"""Samplers draw from the distributions that they promise, never a taken item, and never for ever."""

import pytest
import torch
from scipy.stats import chisquare

from decathlon.errors import DataError
from decathlon.recommendation.interactions import ItemLists
from decathlon.recommendation.samplers import InteractionSampler, Negatives, UserSampler, random_triples


def lists(*items: list[int], of: int = 12) -> ItemLists:
    user = torch.tensor([u for u, taken in enumerate(items) for _ in taken])
    return ItemLists.of(user, torch.tensor([i for taken in items for i in taken]), len(items), of)


TAKEN = lists([0, 1, 5], [11], [], [2, 3, 4, 6, 7, 8, 9, 10, 11, 0, 1], [5, 6])


def uniform(counts: torch.Tensor) -> bool:
    return bool(chisquare(counts.numpy()).pvalue > 1e-3)


def test_users_positives_and_negatives_are_uniform() -> None:
    sampler = UserSampler(TAKEN, batch_size=3, seed=0)
    drawn = [sampler.batch(step) for step in range(6000)]
    user, positive, negative = (torch.cat(column) for column in zip(*drawn))
    assert uniform(torch.bincount(user, minlength=5)[[0, 1, 3, 4]]) and not bool((user == 2).any())
    for u in (0, 3, 4):
        mine = user == u
        assert uniform(torch.bincount(positive[mine], minlength=12)[TAKEN[u]])
        free = [i for i in range(12) if i not in TAKEN[u].tolist()]
        counts = torch.bincount(negative[mine], minlength=12)
        assert int(counts[TAKEN[u]].sum()) == 0 and (len(free) == 1 or uniform(counts[free]))
    assert bool(TAKEN.contains(user, positive).all()) and not bool(TAKEN.contains(user, negative).any())


@pytest.mark.parametrize(("size", "repeats"), [(3, False), (4, False), (9, True)])
def test_users_repeat_in_a_batch_only_when_it_is_larger_than_their_number(size: int, repeats: bool) -> None:
    sampler = UserSampler(TAKEN, size, seed=1)
    distinct = {len(set(sampler.batch(step).user.tolist())) for step in range(50)}
    assert (max(distinct) < size) if repeats else distinct == {size}
    assert sampler.steps_per_epoch == 17 // size + 1


def test_each_interaction_once_an_epoch() -> None:
    sampler = InteractionSampler(TAKEN, 1, seed=0)
    drawn = [sampler.batch(step) for step in range(sampler.steps_per_epoch)]
    pairs = sorted((int(u), int(i)) for u, i, _ in drawn)
    assert pairs == sorted(zip(TAKEN.user.tolist(), TAKEN.item.tolist()))
    assert not any(bool(TAKEN.contains(u, j).any()) for u, _, j in drawn)


@pytest.mark.parametrize("kind", [UserSampler, InteractionSampler])
def test_a_batch_is_a_function_of_seed_and_step(kind: type) -> None:
    one, other = kind(TAKEN, 3, seed=5), kind(TAKEN, 3, seed=5)
    late = other.batch(7)
    for step in range(8):
        batch = one.batch(step)
    assert all(torch.equal(a, b) for a, b in zip(batch, late))
    assert any(not torch.equal(a, b) for a, b in zip(kind(TAKEN, 3, seed=6).batch(7), late))


@pytest.mark.parametrize("kind", [UserSampler, InteractionSampler])
def test_a_user_who_took_everything_is_left_out_and_counted(kind: type) -> None:
    sampler = kind(lists([0, 1, 2], [1], of=3), 4, seed=0)
    assert sampler.saturated == 1
    assert all(set(sampler.batch(step).user.tolist()) == {1} for step in range(10))
    with pytest.raises(DataError, match="nothing can be learnt"):
        kind(lists([0, 1, 2], [], of=3), 4, seed=0)
    with pytest.raises(ValueError, match="user 0 has taken all 3 items"):
        Negatives(lists([0, 1, 2], of=3)).of(torch.tensor([0]), torch.Generator())


def test_random_triples_are_over_everything() -> None:
    user, j, k = random_triples(4, 6, 5000, torch.Generator().manual_seed(0))
    assert uniform(torch.bincount(user)) and uniform(torch.bincount(j)) and uniform(torch.bincount(k))
    assert bool((j == k).any())
