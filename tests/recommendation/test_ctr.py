"""AUC and UAUC against scikit-learn, shrunk means, warm rows, histories; on MovieLens-1M the published counts."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from decathlon.errors import DataError
from decathlon.recommendation.ctr import ShrunkMeans, auc, check_classes, uauc, warm
from decathlon.recommendation.histories import histories


def drawn(rows: int = 400, users: int = 120) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (rows,), generator=generator).double()  # many ties
    labels = torch.randint(0, 2, (rows,), generator=generator)
    return scores, labels, torch.randint(0, users, (rows,), generator=generator)


def test_they_are_scikit_learn_s() -> None:
    scores, labels, users = drawn()
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    each = []
    for user in users.unique():
        mine = users == user
        if 0 < int(labels[mine].sum()) < int(mine.sum()):
            each.append(roc_auc_score(labels[mine], scores[mine]))
    found = uauc(scores, labels, users)
    assert found.users == len(each) and len(each) < len(users.unique())
    assert found.mean == pytest.approx(np.mean(each), abs=1e-12)


def test_uauc_sees_the_order_inside_of_users_alone() -> None:
    scores, labels, users = drawn()
    shifted = torch.exp(scores / 7) * (1 + users) + 100 * users
    assert uauc(shifted, labels, users) == uauc(scores, labels, users)
    assert abs(auc(scores + 100.0 * users, labels) - auc(scores, labels)) > 1e-3


def test_constant_scores_are_a_coin() -> None:
    _, labels, users = drawn()
    assert auc(torch.ones(len(labels)), labels) == 0.5
    assert uauc(torch.ones(len(labels)), labels, users).mean == 0.5


def test_what_decides_nothing_is_no_number() -> None:
    assert math.isnan(auc(torch.ones(3), torch.ones(3))) and math.isnan(auc(torch.ones(0), torch.ones(0)))
    assert uauc(torch.ones(2), torch.ones(2), torch.tensor([1, 2]))[1] == 0
    with pytest.raises(ValueError, match="score of row 1 is not a number"):
        auc(torch.tensor([1.0, math.nan]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        auc(torch.ones(2), torch.tensor([0, 2]))
    with pytest.raises(DataError, match="the test rows have no negative label: 3 rows"):
        check_classes(torch.ones(3), "test")


def test_shrunk_means() -> None:
    users, items, labels = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    score = ShrunkMeans(users, items, labels, 3, 3, shrink=5.0)
    m = 2 / 3
    expected = (1 + 5 * m) / (2 + 5) + (1 + 5 * m) / (2 + 5)
    assert float(score(torch.tensor([0]), torch.tensor([1]))[0]) == pytest.approx(expected)
    assert float(score(torch.tensor([2]), torch.tensor([2]))[0]) == pytest.approx(2 * m)
    assert warm(users, items, torch.tensor([0, 2, 1]), torch.tensor([1, 1, 2])).tolist() == [True, False, False]


def test_histories_are_earlier_positives() -> None:
    generator = torch.Generator().manual_seed(1)
    users, items = (torch.randint(0, n, (60,), generator=generator) for n in (5, 9))
    labels, times = (torch.randint(0, n, (60,), generator=generator) for n in (2, 20))
    for order in (None, times):
        found = histories(users, items, labels, order)
        when = [(0 if order is None else int(times[row]), row) for row in range(60)]
        for row in range(60):
            earlier = sorted(other for other in range(60) if when[other] < when[row] and users[other] == users[row])
            earlier.sort(key=lambda other: when[other])
            expected = [int(items[other]) for other in earlier if labels[other] == 1]
            assert found[row].tolist() == expected
            last, mask = found.last(torch.tensor([row]), 3, padding=-1)
            assert last[0][mask[0]].tolist() == expected[-3:] and int(mask.sum()) == len(expected[-3:])
    assert len(histories(users[:0], items[:0], labels[:0])) == 0
