"""Per-sample losses with missing labels."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def label_losses(logits: Tensor, labels: Tensor, regression: bool = False) -> tuple[Tensor, Tensor]:
    """Sum of a sample's losses over its known labels, and how many those are: (B, T) -> (B,), (B,).

    Binary cross-entropy, or of a regression the absolute error of standardised targets (reconstructed: the paper's
    text does not name it; it is the loss of the recipe that its QM9 runs follow). A NaN label is unknown.
    """
    known = ~torch.isnan(labels)
    target = torch.where(known, labels, 0.0)
    if regression:
        losses = (logits - target).abs()
    else:
        losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * known).sum(1), known.sum(1)


def sample_losses(total: Tensor, known: Tensor, tasks: int, norm: str = "all") -> Tensor:
    """The loss by which a sample is ranked: its summed loss over all T tasks, or over its ``known`` labels.

    The paper's l_i = (1/T) sum_t m_it BCE_it is ``all``: samples with few labels have small losses.
    """
    return total / (tasks if norm == "all" else known.clamp(min=1))
