"""What a trained model says of the training samples: the material of the static methods."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

CHUNK = 16384  # rows worked on at a time, so that no intermediate grows with the training set


@dataclass
class Evidence:
    """Outputs of one model, trained on all n samples, with d-wide embeddings and T outputs of a linear head.

    Attributes:
        embeddings: (n, d) input of the linear head.
        logits: (n, T) its output; of a regression the standardised prediction.
        labels: (n, T) in {0, 1}, or standardised targets; NaN where unknown.
        val_embeddings, val_logits, val_labels: the same of the validation set.
        forgotten: (n,) int64, how often a sample went from correct to wrong during training.
        learned: (n,) bool, whether it was ever correct.
        regression: whether the labels are real numbers.
        boundary: (n,) distance to the decision boundary, where it was computed.
        features: (n, f) input features to cluster by; the embeddings where there are none.
    """

    embeddings: Tensor
    logits: Tensor
    labels: Tensor
    val_embeddings: Tensor
    val_logits: Tensor
    val_labels: Tensor
    forgotten: Tensor
    learned: Tensor
    regression: bool = False
    boundary: Tensor | None = None
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def residual(self) -> Tensor:
        """(n, T) derivative of the loss by the logits, 0 where the label is unknown; see ``residual``."""
        return residual(self.logits, self.labels, self.regression)

    def state_dict(self) -> dict[str, Any]:
        """The fields as tensors and numbers, those that are None left out."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in state.items() if value is not None}


def residual(logits: Tensor, labels: Tensor, regression: bool = False) -> Tensor:
    """sigmoid(logits) - labels of a classification, logits - labels of a regression (squared error).

    (n, T), 0 where the label is NaN. Times [z, 1] this is the gradient of a sample's loss by the linear head.
    """
    prediction = logits if regression else logits.sigmoid()
    return torch.nan_to_num(prediction - labels, nan=0.0)


def with_one(embeddings: Tensor) -> Tensor:
    """[z, 1]: the input of a linear head, its bias included. (n, d) -> (n, d + 1)."""
    return torch.cat([embeddings, embeddings.new_ones(len(embeddings), 1)], dim=1)


def mean_gradient(embeddings: Tensor, residuals: Tensor) -> Tensor:
    """Gradient of the mean loss by the weights and biases of a linear head: (T, d + 1)."""
    total = sum(residuals[rows].T @ with_one(embeddings[rows]) for rows in chunks(len(embeddings)))
    return torch.as_tensor(total) / len(embeddings)


def chunks(n: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cover 0..n-1."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def shares(sizes: list[int], k: int) -> list[int]:
    """Divide k among groups in proportion to their sizes, none above its size (largest remainders)."""
    n = sum(sizes)
    exact = [k * size / n for size in sizes]
    quota = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda group: quota[group] - exact[group])
    for group in by_remainder:
        if sum(quota) == k:
            break
        if quota[group] < sizes[group]:
            quota[group] += 1
    return quota


def random_parts(among: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """``among`` (m,) cut at random into ceil(m / size) parts of nearly equal sizes, each ascending."""
    mixed = among[torch.randperm(len(among), generator=generator)]
    return [part.sort().values for part in mixed.tensor_split(max(1, -(-len(among) // size)))]
