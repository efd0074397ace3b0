"""Scores of single samples, from the outputs of a trained model. All are summed over the known tasks."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from decathlon.pruning.base import positions


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the known tasks of the binary entropy of the prediction, in nats: (n, T) -> (n,)."""
    return (binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none") * _known(labels)).sum(1)


def least_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the known tasks of 1 - max(p, 1 - p): (n, T) -> (n,)."""
    return (logsigmoid(-logits.abs()).exp() * _known(labels)).sum(1)


def el2n(residuals: Tensor) -> Tensor:
    """||p - y||_2 over the known tasks: (n, T) -> (n,). Paul, Ganguli, Dziugaite (NeurIPS 2021)."""
    return residuals.norm(dim=1)


def grand(residuals: Tensor, embeddings: Tensor) -> Tensor:
    """Norm of the gradient by a linear head, ||p - y|| sqrt(1 + ||z||^2): (n,). As ``el2n``, Paul et al."""
    return residuals.norm(dim=1) * (1 + embeddings.square().sum(1)).sqrt()


class Forgetting:
    """Counts forgetting events while a model trains on all samples. Toneva et al. (ICLR 2019).

    An event is a visit at which fewer tasks of the sample are right than at the visit before.
    """

    def __init__(self, n: int) -> None:
        self.last = torch.zeros(n, dtype=torch.int64)
        self.events = torch.zeros(n, dtype=torch.int64)
        self.learned = torch.zeros(n, dtype=torch.bool)

    def update(self, batch_indices: Tensor, correct: Tensor, known: Tensor | None = None) -> None:
        """Take note of the tasks (B, T) that are right, among those that are ``known`` (all by default)."""
        batch_indices = positions(batch_indices, len(self.last))
        known = torch.ones_like(correct, dtype=torch.bool) if known is None else known
        right = (correct.bool() & known).sum(1).to(torch.int64)
        self.events[batch_indices] += (right < self.last[batch_indices]).to(torch.int64)
        self.learned[batch_indices] |= right == known.sum(1)
        self.last[batch_indices] = right

    def score(self) -> Tensor:
        """Events of each sample, +inf where it was never learned: (n,) float32."""
        return forgetting(self.events, self.learned)


def forgetting(events: Tensor, learned: Tensor) -> Tensor:
    """Number of forgetting events, +inf for samples that were never learned: (n,) float32."""
    return torch.where(learned, events.float(), torch.inf)


def deepfool(
    function: Callable[[Tensor], Tensor],
    shape: tuple[int, int],
    sample: Tensor,
    known: Tensor,
    steps: int = 50,
    overshoot: float = 0.02,
) -> Tensor:
    """Length of the smallest change of a continuous input that flips a prediction: (B,), +inf if none does.

    Moosavi-Dezfooli et al., "DeepFool" (CVPR 2016), for independent binary outputs: at each step the function
    is taken as linear and the known output nearest to zero is pushed over it. What the input of a graph is, is
    reconstructed: the paper does not say; here it is whatever ``function`` adds the change to.

    Args:
        function: change (rows, a) -> logits (B, T); a sample's logits depend on its own rows only.
        shape: (rows, a).
        sample: (rows,) int64, the sample 0..B-1 that each row belongs to.
        known: (B, T) bool, the outputs that count.
    """
    change = torch.zeros(shape, device=sample.device)
    flipped = ~known.any(1)
    dead = flipped.clone()
    start: Tensor | None = None
    for _ in range(steps):
        change.requires_grad_(True)
        logits = function(change)
        start = logits.detach() > 0 if start is None else start
        flipped = flipped | (((logits.detach() > 0) != start) & known).any(1)
        nearest = logits.abs().masked_fill(~known, torch.inf).argmin(1, keepdim=True)
        value = logits.gather(1, nearest).squeeze(1)
        (slope,) = torch.autograd.grad(value.sum(), change)
        square = _sum_rows(slope.square(), sample, len(known))
        dead = dead | ((square == 0) & ~flipped)
        active = ~flipped & ~dead
        if not active.any():
            break
        length = torch.where(active, -(1 + overshoot) * value.detach() / square.clamp_min(1e-30), 0.0)
        change = change.detach() + length[sample, None] * slope
    distance = _sum_rows(change.detach().square(), sample, len(known)).sqrt()
    return distance.masked_fill(dead, torch.inf)


def _sum_rows(values: Tensor, sample: Tensor, size: int) -> Tensor:
    """Sums of the rows of each sample: (rows, a) -> (size,)."""
    return values.new_zeros(size).index_add_(0, sample, values.sum(1))


def _known(labels: Tensor) -> Tensor:
    return (~torch.isnan(labels)).to(labels.dtype)
