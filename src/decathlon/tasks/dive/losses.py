"""Losses of the three kinds of task, sample by sample."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

REGRESSION = ("l1", "mse")


def sample_losses(predictions: Tensor, y: Tensor, task: str, regression: str = "l1") -> Tensor:
    """The loss of every sample: (..., B, C) predictions to (..., B).

    Cross-entropy of a multi-class task, binary cross-entropy from logits, or the absolute (``l1``) or squared (``mse``)
    error of a regression; the latter three are means over the labels that are known.

    Args:
        y: (B, T) labels, NaN where unknown; of a multi-class task the number of the class, T = 1.
    """
    if task == "multiclass":
        flat = predictions.reshape(-1, predictions.shape[-1])
        target = y[:, 0].long().expand(predictions.shape[:-1]).reshape(-1)
        return cross_entropy(flat, target, reduction="none").view(predictions.shape[:-1])
    known = ~y.isnan()
    target = torch.where(known, y, 0.0).to(predictions.dtype).expand_as(predictions)
    if task == "binary":
        losses = binary_cross_entropy_with_logits(predictions, target, reduction="none")
    else:
        error = predictions - target
        losses = error.abs() if regression == "l1" else error.square()
    return (losses * known).sum(-1) / known.sum(-1).clamp(min=1)
