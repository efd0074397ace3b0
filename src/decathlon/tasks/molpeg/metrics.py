"""Metrics over tasks with missing labels."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

HIGHER = {"roc_auc": True, "average_precision": True, "mae": False, "rmse": False}
REGRESSION = ("mae", "rmse")


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """``roc_auc`` and ``average_precision`` of each task, NaN where its known labels are all of one class.

    Args:
        logits: (n, T), any order-preserving score. labels: (n, T) in {0, 1}, NaN where unknown.

    Returns:
        scikit-learn's values in [0, 1], T each.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, truth = logits.detach().cpu().double().numpy(), labels.detach().cpu().double().numpy()
    values: dict[str, list[float]] = {"roc_auc": [], "average_precision": []}
    for task in range(truth.shape[1]):
        known = ~np.isnan(truth[:, task])
        target, score = truth[known, task], scores[known, task]
        both = 0 < target.sum() < len(target)
        values["roc_auc"].append(float(roc_auc_score(target, score)) if both else math.nan)
        values["average_precision"].append(float(average_precision_score(target, score)) if both else math.nan)
    return values


def regression_metrics(prediction: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """``mae`` and ``rmse`` in the labels' unit and ``r2`` of each task, over its known labels.

    ``r2`` is 1 - SSE / SST, NaN where the labels do not vary.
    """
    error = prediction.detach().double() - labels.double()
    square = error.square().nanmean(0)
    variance = (labels.double() - labels.double().nanmean(0)).square().nanmean(0)
    return {
        "mae": error.abs().nanmean(0).tolist(),
        "rmse": square.sqrt().tolist(),
        "r2": torch.where(variance > 0, 1 - square / variance, math.nan).tolist(),
    }


def over_tasks(values: list[float]) -> float:
    """The mean over the tasks that have a value; NaN if none has."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


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

    def measure(self, scale: tuple[Tensor, Tensor] | None, tasks: Sequence[str] = ()) -> dict[str, float]:
        """The metrics of all that was kept, which is then forgotten: means over the tasks.

        ``score`` is the main one, with the sign by which more is better.

        Args:
            scale: mean and standard deviation of a regression's targets.
            tasks: names of the tasks, if each is wanted by itself too (``<metric>/<task>``) where there are several.
        """
        output, truth = (torch.cat(part) for part in self.parts)
        self.parts = ([], [])
        if scale is None:
            each = classification_metrics(output, truth)
        else:
            mean, std = (part.to(output.device).double() for part in scale)
            each = regression_metrics(output.double() * std + mean, truth)
        values = {name: over_tasks(values) for name, values in each.items()}
        if len(tasks) > 1:
            for name, found in each.items():
                values |= {f"{name}/{task}": value for task, value in zip(tasks, found, strict=True)}
        return {**values, "score": values[self.metric] if HIGHER[self.metric] else -values[self.metric]}
