"""Metrics over tasks with missing labels."""

import warnings

import numpy as np
import torch
from torch import Tensor

HIGHER = {"roc_auc": True, "average_precision": True, "mae": False}


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``roc_auc`` and ``average_precision``: means over the tasks that have both classes among their known labels.

    Args:
        logits: (n, T), any order-preserving score. labels: (n, T) in {0, 1}, NaN where unknown.

    Returns:
        scikit-learn's values in [0, 1], NaN if no task has both classes.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, truth = logits.detach().cpu().double().numpy(), labels.detach().cpu().double().numpy()
    values: list[tuple[float, float]] = []
    for task in range(truth.shape[1]):
        known = ~np.isnan(truth[:, task])
        target, score = truth[known, task], scores[known, task]
        if 0 < target.sum() < len(target):
            values.append((roc_auc_score(target, score), average_precision_score(target, score)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no tasks
        auc, precision = np.mean(np.array(values).reshape(-1, 2), axis=0)
    return {"roc_auc": float(auc), "average_precision": float(precision)}


def regression_metrics(prediction: Tensor, labels: Tensor) -> dict[str, float]:
    """``mae``: mean absolute error over the known labels, per task and then over tasks, in the labels' unit."""
    error = (prediction.detach().double() - labels.double()).abs()
    return {"mae": float(error.nanmean(0).nanmean())}


class Collected:
    """Outputs and labels of the batches of a set, until all are there.

    Args:
        metric: the main one.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.parts: tuple[list[Tensor], list[Tensor]] = ([], [])

    def add(self, output: Tensor, labels: Tensor) -> None:
        """Keep a batch: (B, T) each."""
        self.parts[0].append(output)
        self.parts[1].append(labels)

    def measure(self, scale: tuple[Tensor, Tensor] | None) -> dict[str, float]:
        """The metrics of all that was kept, which is then forgotten.

        ``score`` is the main one, with the sign by which more is better.

        Args:
            scale: mean and standard deviation of a regression's targets.
        """
        output, truth = (torch.cat(part) for part in self.parts)
        self.parts = ([], [])
        if scale is None:
            values = classification_metrics(output, truth)
        else:
            mean, std = (part.to(output.device).double() for part in scale)
            values = regression_metrics(output.double() * std + mean, truth)
        return {**values, "score": values[self.metric] if HIGHER[self.metric] else -values[self.metric]}
