"""Methods without a language model: a collaborative model by itself, and the two baselines that nobody prints."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from decathlon.recommendation.ctr import ShrunkMeans, auc
from decathlon.tasks.cora.log import Log
from decathlon.tasks.cora.methods.base import Method

log = logging.getLogger(__name__)


class CollaborativeMethod(Method):
    """The dot product of the collaborative vectors."""

    uses_llm = False

    def __init__(self, collaborative: str = "mf") -> None:
        self.collaborative = collaborative

    def scores(self, log: Log, train: Tensor, rows: Tensor, model: Any) -> Tensor:
        return model.scores(rows)


class BiasMethod(Method):
    """Shrunk mean of the item plus shrunk mean of the user, on all training rows."""

    uses_llm = False

    def __init__(self, shrink: float = 5.0) -> None:
        if shrink <= 0:
            raise ValueError(f"shrink={shrink} must be positive")
        self.shrink = shrink

    def scores(self, log: Log, train: Tensor, rows: Tensor, model: Any) -> Tensor:
        return bias_scores(log, rows, self.shrink)


class LogisticMethod(Method):
    """Logistic regression on the frozen collaborative vectors [e_u, e_i], on the rows that CoRA is trained on.

    Args:
        collaborative: where the vectors come from. strengths: of the L2 penalty (scikit-learn's C); the one with the
            best AUC on the validation rows is taken.
    """

    uses_llm = False

    def __init__(self, collaborative: str = "mf", strengths: Sequence[float] = (0.01, 0.1, 1.0, 10.0)) -> None:
        if not strengths or min(strengths) <= 0:
            raise ValueError(f"strengths={list(strengths)} must be positive numbers")
        self.collaborative, self.strengths = collaborative, tuple(strengths)

    def scores(self, log: Log, train: Tensor, rows: Tensor, model: Any) -> Tensor:
        return logistic_scores(log, train, rows, model, self.strengths)


def bias_scores(rows: Log, wanted: Tensor, shrink: float = 5.0) -> Tensor:
    """:class:`~decathlon.recommendation.ctr.ShrunkMeans` of all training rows, for the rows ``wanted``."""
    train = rows.rows(0)
    means = ShrunkMeans(
        rows.users[train], rows.items[train], rows.labels[train], rows.user_count, rows.item_count, shrink
    )
    return means(rows.users[wanted], rows.items[wanted])


def logistic_scores(
    rows: Log, train: Tensor, wanted: Tensor, model: Any, strengths: Sequence[float] = (0.01, 0.1, 1.0, 10.0)
) -> Tensor:
    """Decision values of a logistic regression on standardised [e_u, e_i], float64."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def features(some: Tensor) -> Any:
        return torch.cat(model.frozen(some), dim=1).double().numpy()

    scaler = StandardScaler().fit(features(train))
    valid = rows.rows(1)
    best: tuple[float, Any] | None = None
    for strength in strengths:
        fitted = LogisticRegression(C=strength, max_iter=2000)
        fitted.fit(scaler.transform(features(train)), rows.labels[train].numpy())
        found = torch.from_numpy(fitted.decision_function(scaler.transform(features(valid))))
        quality = auc(found, rows.labels[valid])
        if best is None or quality > best[0]:
            best = (quality, fitted)
    assert best is not None
    return torch.from_numpy(best[1].decision_function(scaler.transform(features(wanted))))
