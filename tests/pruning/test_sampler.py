"""Order, shards and weights of an epoch."""

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from decathlon.pruning import EpochSampler, split_batches


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    a, b = EpochSampler(50, seed=1), EpochSampler(50, seed=1)
    state = torch.get_rng_state()
    first = [a.set_epoch(e) or list(a) for e in range(3)]
    assert torch.equal(state, torch.get_rng_state())
    b.set_epoch(2)
    assert list(b) == first[2] != first[1]
    assert list(EpochSampler(50, seed=2)) != first[0] and sorted(first[0]) == list(range(50))


def test_a_selection_and_its_weights() -> None:
    sampler = EpochSampler(10)
    sampler.set_selection(torch.tensor([2, 5, 7]), torch.tensor([1.0, 2.0, 3.0]))
    assert len(sampler) == 3 and sorted(sampler) == [2, 5, 7] and sampler.weighted
    assert sampler.weight.tolist() == [1, 1, 1, 1, 1, 2, 1, 3, 1, 1]
    sampler.set_selection(torch.tensor([4, 4, 1]), torch.ones(3))
    assert sorted(sampler) == [1, 4, 4] and not sampler.weighted
    sampler.set_selection()
    assert len(sampler) == 10
    for bad in ([], [10], [-1]):
        with pytest.raises(ValueError, match="position"):
            sampler.set_selection(torch.tensor(bad))
    with pytest.raises(ValueError, match="at least 1"):
        EpochSampler(0)


def test_it_is_the_sampler_of_a_data_loader() -> None:
    sampler = EpochSampler(9)
    sampler.set_selection(torch.tensor([1, 3, 5, 7]))
    batches = list(DataLoader(torch.arange(9), batch_size=3, sampler=sampler))
    assert [len(batch) for batch in batches] == [3, 1] and sorted(torch.cat(batches).tolist()) == [1, 3, 5, 7]
    assert isinstance(sampler, DistributedSampler)  # Lightning replaces what is not


@pytest.mark.parametrize(("k", "world"), [(10, 2), (11, 2), (3, 4), (1, 3)])
def test_ranks_share_an_epoch_evenly(k: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = EpochSampler(20, seed=5)
    sampler.set_selection(torch.arange(k))
    alone = list(sampler)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    shards = []
    for rank in range(world):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shards.append(list(sampler))
        assert len(shards[-1]) == len(sampler) == -(-k // world)
    dealt = [shard[i] for i in range(len(shards[0])) for shard in shards]
    assert dealt[:k] == alone and set(dealt) == set(range(k))
    sampler.sharded = False
    assert list(sampler) == alone


@pytest.mark.parametrize(("k", "world"), [(1000, 2), (100, 3), (18, 4), (17, 2), (1, 3)])
def test_ranks_share_every_batch(k: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch size is that of all ranks together: they make as many steps, on the same batches, as one does."""
    sampler = EpochSampler(1000, seed=5)
    sampler.set_selection(torch.arange(k))
    alone = sampler.batches(16)
    assert len(alone) == sampler.number_of_batches(16)
    assert all(torch.equal(a, b) for a, b in zip(alone, split_batches(sampler.order(), 16), strict=True))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    ranks = []
    for rank in range(world):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        ranks.append(sampler.batches(16))
        assert len(ranks[-1]) == sampler.number_of_batches(16) == len(alone)
    for batch, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1 <= min(sizes) and sum(sizes) == max(len(batch), world)
        assert set(torch.cat(parts).tolist()) == set(batch.tolist())
    sampler.sharded = False
    assert all(torch.equal(a, b) for a, b in zip(alone, sampler.batches(16), strict=True))


def test_a_last_batch_of_one_joins_its_predecessor() -> None:
    assert [len(b) for b in split_batches(torch.arange(9), 4)] == [4, 5]
    assert [len(b) for b in split_batches(torch.arange(10), 4)] == [4, 4, 2]
    assert [len(b) for b in split_batches(torch.arange(1), 4)] == [1]
