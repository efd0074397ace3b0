"""F1 scores of many binary attributes, and the mean rank of several methods."""

import torch
from torch import Tensor


def f1_scores(predicted: Tensor, target: Tensor) -> Tensor:
    """F1 of each attribute: ``2 TP/(2 TP + FP + FN)``; 0 where nothing is or should be positive.

    Args:
        predicted, target: (B, m) bool.

    Returns:
        (m,) float64, equal to scikit-learn's ``f1_score(..., zero_division=0)``.
    """
    return f1_from_counts(f1_counts(predicted, target))


def f1_counts(predicted: Tensor, target: Tensor) -> Tensor:
    """(2, m) counts of 2 TP and of 2 TP + FP + FN; counts of batches may be added."""
    predicted, target = predicted.bool(), target.bool()
    both = 2 * (predicted & target).sum(dim=0)
    return torch.stack([both, both + (predicted ^ target).sum(dim=0)])


def f1_from_counts(counts: Tensor) -> Tensor:
    """F1 of each attribute from summed ``f1_counts``."""
    both, total = counts.double()
    return torch.where(total > 0, both / total.clamp(min=1), torch.zeros_like(both))


def mean_ranks(scores: Tensor) -> Tensor:
    """Mean rank of each method over the attributes (1 is best, ties share their mean rank).

    Args:
        scores: (methods, m), higher is better.
    """
    better = (scores[None] > scores[:, None]).sum(dim=1)
    equal = (scores[None] == scores[:, None]).sum(dim=1)
    return (better + (equal + 1) / 2).double().mean(dim=1)
