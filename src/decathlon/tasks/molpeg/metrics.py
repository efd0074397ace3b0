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


def evaluate(logits: list[Tensor], labels: list[Tensor], scale: tuple[Tensor, Tensor] | None) -> dict[str, float]:
    """The metrics of a set from its batches; ``scale`` = (mean, std) of a regression's targets."""
    output, truth = torch.cat(logits), torch.cat(labels)
    if scale is None:
        return classification_metrics(output, truth)
    mean, std = (part.to(output.device).double() for part in scale)
    return regression_metrics(output.double() * std + mean, truth)
