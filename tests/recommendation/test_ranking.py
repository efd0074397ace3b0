"""All-item ranking agrees with a slow per-user reference, and says what it does with odd input."""

from pathlib import Path

import pytest
import torch

from decathlon.recommendation import ranking
from decathlon.recommendation.interactions import ItemLists, read_interactions
from decathlon.recommendation.ranking import evaluate, inner_products, rank_all, ranking_metrics, top_items
from decathlon.recommendation.splits import by_column
from tests.recommendation.reference import means


def lists(taken: torch.Tensor) -> ItemLists:
    user, item = taken.nonzero().T
    return ItemLists.of(user, item, *taken.shape)


def world(users: int = 60, items: int = 45) -> tuple[torch.Tensor, ItemLists, ItemLists]:
    random = torch.Generator().manual_seed(0)
    kind = torch.randint(0, 6, (users, items), generator=random)
    kind[3] = 0  # a user without held-out items
    return torch.randn(users, items, generator=random), lists(kind == 1), lists(kind == 2)


@pytest.mark.parametrize("cells", [2**22, 100])
def test_equals_the_slow_reference(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CELLS", cells)
    scores, seen, held = world()
    found = evaluate(lambda users: scores[users], seen, held, (1, 5, 10, 20))
    wanted = means(scores, seen, held, (1, 5, 10, 20))
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_the_official_ndcg_is_never_below_the_standard_one_and_equal_with_one_held_out_item() -> None:
    scores, seen, held = world()
    found = ranking_metrics(*rank_all(lambda users: scores[users], seen, held, 20))
    for k in (10, 20):
        assert bool((found[f"ndcg_official@{k}"] >= found[f"ndcg@{k}"] - 1e-12).all())
    one = ItemLists.of(torch.arange(60), torch.arange(60) % 45, 60, 45)
    single = ranking_metrics(*rank_all(lambda users: scores[users], seen, one, 20))
    assert torch.equal(single["ndcg_official@20"], single["ndcg@20"])


def test_train_items_are_left_out_and_what_is_missing_is_no_item() -> None:
    scores, seen, _ = world(4, 8)
    top = top_items(lambda users: scores[users], seen, torch.arange(4), 12)
    for user in range(4):
        there = top[user][top[user] >= 0].tolist()
        assert sorted(there) == sorted(set(range(8)) - set(seen[user].tolist()))
    nan = torch.full((4, 8), torch.nan)
    assert bool((top_items(lambda users: nan[users], seen, torch.arange(4), 3) == -1).all())


def test_scores_are_not_changed() -> None:
    scores, seen, held = world()
    kept = scores.clone()
    evaluate(lambda users: scores[users], seen, held)
    assert torch.equal(scores, kept)


def test_embeddings_score_by_inner_products() -> None:
    users, items = torch.randn(5, 3), torch.randn(7, 3)
    assert torch.allclose(inner_products(users, items)(torch.tensor([4, 0])), users[[4, 0]] @ items.T)


def test_metrics_beyond_what_is_known_are_refused() -> None:
    with pytest.raises(ValueError, match="the best 3 items are known; metrics at 5 need more"):
        ranking_metrics(torch.zeros(2, 3, dtype=torch.bool), torch.ones(2), (5,))


@pytest.mark.data
def test_popularity_and_random_scores_on_last_fm(data_root: Path | None) -> None:
    if data_root is None:
        pytest.skip("needs DECATHLON_TEST_DATA")
    table = read_interactions(data_root / "lfm2k-mm" / "interactions.csv.gz", extra=["split"])
    train, _, test = by_column(table.rows, table.extra["split"])
    popularity = train.popularity.float()
    found = evaluate(lambda users: popularity.expand(len(users), -1), train.lists, test.lists)
    wanted = {"recall@20": 0.1219, "precision@20": 0.0274, "ndcg@20": 0.0752, "ndcg_official@20": 0.1569}
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=2e-3), name
    random = torch.rand(train.users, train.items, generator=torch.Generator().manual_seed(0))
    assert evaluate(lambda users: random[users], train.lists, test.lists)["recall@20"] == pytest.approx(
        0.0143, abs=2e-3
    )
