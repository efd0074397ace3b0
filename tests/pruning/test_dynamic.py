"""Dynamic pruners: how many, which, with what weights."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from decathlon.pruning import UCB, EpsilonGreedy, InfoBatch, Pruner, RankLoss, SoftRandom, kept, largest
from decathlon.tasks.molpeg import MolPeg

DYNAMIC: list[type[Pruner]] = [MolPeg, RankLoss, SoftRandom, EpsilonGreedy, UCB, InfoBatch]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(pruner: Pruner, epochs: int, seed: int = 1) -> list[Tensor]:
    """Kept sets of epochs with made-up losses, in batches of 16."""
    draw, sets = generator(seed), []
    for _ in range(epochs):
        indices, weights = pruner.select()
        assert indices.dtype == torch.int64 and weights.dtype == torch.float32 and len(weights) == len(indices)
        sets.append(indices)
        for batch in indices[torch.randperm(len(indices), generator=draw)].split(16):
            losses = torch.rand(2, len(batch), generator=draw)
            pruner.update(batch, losses[0], losses[1])
    return sets


@pytest.mark.parametrize(
    ("n", "prune", "k"), [(10, 0.9, 1), (10, 0.0, 10), (7, 0.6, 2), (32901, 0.9, 3290), (2, 0.99, 1)]
)
def test_number_kept(n: int, prune: float, k: int) -> None:
    assert kept(n, prune) == k


@pytest.mark.parametrize("prune", [1, 1.2, -0.01, "abc", None, math.nan])
def test_a_share_outside_0_to_1_is_refused(prune: Any) -> None:
    with pytest.raises(ValueError, match="prune="):
        kept(100, prune)
    with pytest.raises(ValueError, match="at least 2"):
        kept(1, 0.5)


@pytest.mark.parametrize("kind", DYNAMIC)
@pytest.mark.parametrize("prune", [0.0, 0.3, 0.9])
def test_every_epoch_has_k_distinct_samples(kind: type[Pruner], prune: float) -> None:
    """Exactly floor((1 - prune) n) of them."""
    for indices in train(kind(103, prune, generator()), 12):
        assert len(indices) == len(indices.unique()) == math.floor(103 * (1 - prune) + 1e-9)
        assert int(indices.min()) >= 0 and int(indices.max()) < 103


@pytest.mark.parametrize("kind", [MolPeg, RankLoss, UCB])
@pytest.mark.parametrize("prune", [0.6, 0.9])
def test_the_first_epochs_walk_through_everything(kind: type[Pruner], prune: float) -> None:
    """Disjoint sets until all are seen, after ceil(1 / r) epochs."""
    pruner = kind(200, prune, generator())
    rounds = math.ceil(1 / (1 - prune) - 1e-9)
    sets = train(pruner, rounds)
    assert len(torch.cat(sets).unique()) == 200
    assert len(torch.cat(sets[:-1]).unique()) == (rounds - 1) * pruner.k


def test_the_warm_up_is_not_in_index_order() -> None:
    first, _ = MolPeg(1000, 0.9, generator(3)).select()
    again, _ = MolPeg(1000, 0.9, generator(3)).select()
    other, _ = MolPeg(1000, 0.9, generator(4)).select()
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, torch.arange(100))


def test_ties_are_broken_at_random_and_evenly() -> None:
    score = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    draw, hits = generator(), torch.zeros(6)
    for _ in range(2000):
        hits[largest(score, 3, draw)] += 1
    assert hits[0] == 2000 and hits[5] == 0
    assert (hits[1:5] - 1000).abs().max() < 5 * math.sqrt(2000 * 0.5 * 0.5)


def test_selections_agree_with_sort_topk_and_argpartition() -> None:
    """As sets, where there are no ties."""
    score = torch.rand(5000, dtype=torch.float64, generator=generator(5))
    for k in (1, 17, 2500, 4999, 5000):
        mine = set(largest(score, k).tolist())
        assert mine == set(score.topk(k).indices.tolist())
        assert mine == set(sorted(range(5000), key=lambda i: -score[i].item())[:k])
        assert mine == set(np.argpartition(-score.numpy(), k - 1)[:k].tolist())


def test_nan_has_no_rank() -> None:
    with pytest.raises(ValueError, match="NaN"):
        largest(torch.tensor([1.0, math.nan]), 1)


@pytest.mark.parametrize("kind", DYNAMIC)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_refused(kind: type[Pruner], bad: float) -> None:
    pruner = kind(10, 0.5, generator())
    with pytest.raises(ValueError, match="NaN or infinite"):
        pruner.update(torch.tensor([1, 2]), torch.tensor([0.5, bad]), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("kind", DYNAMIC)
def test_a_pruner_goes_on_from_its_state(kind: type[Pruner]) -> None:
    whole = kind(100, 0.7, generator())
    train(whole, 5)
    other = kind(100, 0.7, generator(99))
    other.load_state_dict(whole.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(train(whole, 6), train(other, 6), strict=True))
    with pytest.raises(ValueError, match="of 100 samples, not of 50"):
        kind(50, 0.7).load_state_dict(whole.state_dict())


def test_soft_random_with_replacement_sees_fewer_samples() -> None:
    pruner = SoftRandom(20000, 0.6, generator(), replacement=True)
    indices, _ = pruner.select()
    assert len(indices) == 8000
    assert len(indices.unique()) / 20000 == pytest.approx(1 - math.exp(-0.4), abs=0.01)


def test_rank_by_loss_keeps_the_largest_last_losses() -> None:
    pruner = RankLoss(6, 0.5, generator())
    pruner.update(torch.arange(6), torch.tensor([0.1, 5.0, 0.3, 4.0, 0.2, 3.0]))
    assert pruner.select()[0].tolist() == [1, 3, 5]
    pruner.update(torch.tensor([1]), torch.tensor([0.0]))
    assert pruner.select()[0].tolist() == [2, 3, 5]


def test_epsilon_greedy_keeps_the_best_and_explores_the_rest() -> None:
    pruner = EpsilonGreedy(1000, 0.9, generator(), epsilon=0.2)
    pruner.update(torch.arange(1000), torch.arange(1000.0))
    hits = torch.zeros(1000)
    for _ in range(300):
        hits[pruner.select()[0]] += 1
    assert (hits[920:] == 300).all()
    assert hits[:920].sum() == 300 * 20
    assert hits[:920].std() < 2 * math.sqrt(hits[:920].mean())


def test_moving_averages_of_the_loss() -> None:
    """m <- d m + (1 - d) l; v <- d v + (1 - d) (l - m_old)^2, from the first loss on."""
    pruner = UCB(3, 0.5, generator(), c=2.0, decay=0.75)
    for loss in (1.0, 3.0, 2.0):
        pruner.update(torch.tensor([1]), torch.tensor([loss]))
    mean, variance = 1.0, 0.0
    for loss in (3.0, 2.0):
        variance = 0.75 * variance + 0.25 * (loss - mean) ** 2
        mean = 0.75 * mean + 0.25 * loss
    assert pruner.mean[1].item() == pytest.approx(mean) and pruner.variance[1].item() == pytest.approx(variance)
    pruner.mean[:] = torch.tensor([1.0, 0.0, 0.5])
    pruner.variance[:] = torch.tensor([0.0, 1.0, 0.0])
    assert pruner.select()[0].tolist() == [1]  # 0 + 2 * 1 beats 1


def test_infobatch_is_unbiased_and_keeps_exactly_k() -> None:
    """Over 2,000 draws the weighted sum of gradients is the full one within three standard errors."""
    draw = generator(2)
    n, k, draws = 200, 120, 2000
    loss = torch.rand(n, generator=draw) ** 3
    gradient = torch.randn(n, 5, dtype=torch.float64, generator=draw)
    pruner = InfoBatch(n, 0.4, generator())
    pruner.update(torch.arange(n), loss)
    assert int((loss >= loss.mean()).sum()) < k
    sums = []
    for _ in range(draws):
        indices, weights = pruner.select()
        assert len(indices) == len(indices.unique()) == k
        sums.append((weights[:, None].double() * gradient[indices]).sum(0))
    estimate = torch.stack(sums)
    error = estimate.std(0) / math.sqrt(draws)
    assert ((estimate.mean(0) - gradient.sum(0)).abs() < 3 * error).all()
    below = loss < loss.mean()
    indices, weights = pruner.select()
    assert (weights[~below[indices]] == 1).all()
    assert torch.allclose(weights[below[indices]], torch.tensor(float(below.sum()) / (k - float((~below).sum()))))


def test_infobatch_draws_among_the_upper_half_when_that_is_enough() -> None:
    pruner = InfoBatch(100, 0.9, generator())
    pruner.update(torch.arange(100), torch.arange(100.0))
    indices, weights = pruner.select()
    assert len(indices) == 10 and int(indices.min()) >= 50 and (weights == 1).all()


def test_infobatch_anneals_to_everything() -> None:
    pruner = InfoBatch(100, 0.5, generator(), epochs=8, anneal=0.875)
    assert [len(indices) for indices in train(pruner, 8)] == [50] * 7 + [100]
    with pytest.raises(ValueError, match="epochs"):
        InfoBatch(100, 0.5, anneal=0.5)
