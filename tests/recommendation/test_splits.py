"""Splits: the counts of the recipe, parts that do not meet, and nothing lost."""

from pathlib import Path

import pytest
import torch

from decathlon.errors import DataError
from decathlon.recommendation.interactions import Interactions, compact, core, read_interactions
from decathlon.recommendation.splits import Split, by_column, by_time, leave_one_out, per_user


def rows(timed: bool = False) -> Interactions:
    """User u has u items."""
    user = torch.repeat_interleave(torch.arange(31), torch.arange(31))
    item = torch.cat([torch.randperm(40, generator=torch.Generator().manual_seed(u))[:u] for u in range(31)])
    time = torch.rand(len(user), generator=torch.Generator().manual_seed(9), dtype=torch.float64) if timed else None
    return Interactions(user, item, 31, 40, time)


def check_parts(whole: Interactions, split: Split) -> None:
    keys = torch.cat([part.lists.keys for part in split])
    assert torch.equal(keys.sort().values, whole.lists.keys) and sum(map(len, split)) == len(whole)


def test_counts_of_the_recipe() -> None:
    split = per_user(rows(), seed=0)
    check_parts(rows(), split)
    for user in range(31):
        held = 0 if user < 3 else 2 if user < 10 else user // 5
        assert [int(part.lists.count[user]) for part in split] == [user - held, held - held // 2, held // 2]
    assert not torch.equal(per_user(rows(), seed=1).test.lists.keys, split.test.lists.keys)


@pytest.mark.data
def test_counts_of_amazon_baby(data_root: Path | None) -> None:
    if data_root is None:
        pytest.skip("needs DECATHLON_TEST_DATA")
    table = read_interactions(data_root / "amazon-baby-inter" / "interactions.csv.gz", extra=["split"])
    for split in (by_column(table.rows, table.extra["split"]), per_user(table.rows, 123)):
        assert [len(part) for part in split] == [118_551, 21_682, 20_559]


def test_leave_one_out_takes_the_latest() -> None:
    whole = rows(timed=True)
    split = leave_one_out(whole)
    check_parts(whole, split)
    assert whole.time is not None and split.test.time is not None and split.val.time is not None
    for user in range(3, 31):
        times = whole.time[whole.user == user].sort().values
        assert float(split.test.time[split.test.user == user]) == times[-1]
        assert float(split.val.time[split.val.user == user]) == times[-2]
    assert int(split.test.user.min()) == 3
    check_parts(rows(), leave_one_out(rows(), seed=3))


def test_two_moments_split_all_rows() -> None:
    whole = rows(timed=True)
    split = by_time(whole, val=0.2, test=0.1)
    check_parts(whole, split)
    assert all(part.time is not None for part in split)
    assert float(split.train.time.max()) < float(split.val.time.min())  # type: ignore[union-attr]
    assert float(split.val.time.max()) < float(split.test.time.min())  # type: ignore[union-attr]
    assert len(split.test) / len(whole) == pytest.approx(0.1, abs=0.01)
    assert len(by_time(whole, val=0.0, test=0.1).val) == 0
    with pytest.raises(DataError, match="no time"):
        by_time(rows())
    with pytest.raises(ValueError, match="below 1"):
        by_time(whole, 0.5, 0.5)


def test_a_split_number_must_be_one_of_three() -> None:
    with pytest.raises(DataError, match="split 3"):
        by_column(rows(), torch.full((len(rows()),), 3))


def test_the_core_has_enough_rows_everywhere() -> None:
    left = core(rows(), 8)
    small, users, items = compact(left)
    assert small.users == len(users) and small.items == len(items)
    assert int(small.lists.count.min()) >= 8 and int(small.popularity.min()) >= 8
    assert torch.equal(users[small.user], left.user) and torch.equal(items[small.item], left.item)
    assert len(core(rows(), 41)) == 0
