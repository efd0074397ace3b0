"""Reading interactions: what is counted, what is refused, in one line."""

import logging
from pathlib import Path

import pytest
import torch

from decathlon.errors import DataError
from decathlon.recommendation.interactions import Interactions, ItemLists, read_interactions


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    return path


def test_lists_are_sorted_distinct_and_searchable() -> None:
    lists = ItemLists.of(torch.tensor([2, 0, 0, 2, 0]), torch.tensor([1, 3, 0, 1, 3]), users=4, items=5)
    assert [lists[user].tolist() for user in range(4)] == [[0, 3], [], [1], []]
    users, items = torch.arange(4)[:, None], torch.arange(5)
    wanted = torch.zeros(4, 5, dtype=torch.bool)
    wanted[0, [0, 3]] = wanted[2, 1] = True
    assert torch.equal(lists.contains(users, items), wanted)
    empty = ItemLists.of(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 4, 5)
    assert not bool(empty.contains(users, items).any())


def test_what_is_left_out_is_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, "user,item,stars\n0,1,5\n0,1,3\n1,,2\n1,0,many\n2,2,1\n3,0,1,9,9,9\n")
    with caplog.at_level(logging.WARNING, "decathlon"):
        table = read_interactions(path, rating="stars")
    assert table.report == {"rows": 6, "malformed": 1, "incomplete": 2, "repeated": 1}
    assert table.rows.user.tolist() == [0, 2] and table.rows.item.tolist() == [1, 2]
    assert table.rows.rating is not None and table.rows.rating.tolist() == [5, 1]
    assert "of 6 rows left out: 1 malformed, 2 incomplete, 1 repeated" in caplog.text


def test_names_are_numbered(tmp_path: Path) -> None:
    path = written(tmp_path, "who,what,when\nbob,x2,3\nann,x1,1\nbob,x1,2\n")
    table = read_interactions(path, user="who", item="what", time="when")
    assert table.user_ids == ["ann", "bob"] and table.item_ids == ["x1", "x2"]
    assert table.rows.user.tolist() == [1, 0, 1] and table.rows.item.tolist() == [1, 0, 0]
    known = read_interactions(path, user="who", item="what", items=["x2", "x0", "x1"])
    assert known.rows.items == 3 and known.rows.item.tolist() == [0, 2, 2]
    with pytest.raises(DataError, match="what x2 is not among the 1 known ids"):
        read_interactions(path, user="who", item="what", items=["x1"])
    with pytest.raises(DataError, match="the id x1 is listed twice"):
        read_interactions(path, user="who", item="what", items=["x1", "x1", "x2"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,thing\n0,1\n", "has no column item; it has user, thing"),
        ("user,item\n0,-1\n", "item -1 is out of range"),
        ("user,item\n,\n", "no row with user, item is left"),
        ("", "it is empty"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_interactions(written(tmp_path, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_ids_must_be_in_range() -> None:
    with pytest.raises(DataError, match="item id 3 in row 1 is out of range: there are 3 items, from 0"):
        Interactions(torch.tensor([0, 1]), torch.tensor([0, 3]), 2, 3)
    with pytest.raises(DataError, match="1 values of item"):
        Interactions(torch.tensor([0, 1]), torch.tensor([0]), 2, 3)
    with pytest.raises(DataError, match="not a column of int64"):
        Interactions(torch.tensor([0.5]), torch.tensor([0]), 2, 3)
