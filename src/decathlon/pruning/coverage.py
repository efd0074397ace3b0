"""Subsets that cover the gradients of all samples: CRAIG's facility location."""

import torch
from torch import Tensor

from decathlon.pruning.evidence import random_parts, shares


def facility_location(similarity: Tensor, k: int, width: int = 32) -> Tensor:
    """Greedy maximum of sum_i max_{j in S} similarity[i, j] over |S| = k: the k positions in order.

    Exact greedy, at least 1 - 1/e of the optimum. The gain of a sample can only fall while S grows, so only
    the ``width`` samples with the largest old gains are evaluated anew, until the best of them beats all old
    ones.

    Args:
        similarity: (n, n), symmetric, not negative.
    """
    n = len(similarity)
    width = min(width, n)
    best = torch.zeros(n)
    bound = similarity.sum(1)
    order = torch.empty(k, dtype=torch.int64)
    for t in range(k):
        while True:
            ahead = bound.topk(min(width + 1, n))
            top = ahead.indices[:width]
            gain = (similarity[top] - best).clamp_(min=0).sum(1)
            gain[ahead.values[:width] == -torch.inf] = -torch.inf  # chosen before
            bound[top] = gain
            new = int(gain.argmax())
            if width == n or gain[new] >= ahead.values[width]:
                break
        order[t] = top[new]
        best = torch.maximum(best, similarity[order[t]])
        bound[order[t]] = -torch.inf
    return order


def gradient_distances(embeddings: Tensor, residuals: Tensor) -> Tensor:
    """||g_i - g_j|| of the loss gradients by a linear head, without forming them: (n, n).

    <g_i, g_j> = <r_i, r_j> (<z_i, z_j> + 1) with residuals r (n, T) and embeddings z (n, d).
    """
    gram = (residuals @ residuals.T).mul_((embeddings @ embeddings.T).add_(1))
    square = gram.diagonal().clone()
    return (square[:, None] + square - 2 * gram).clamp_(min=0).sqrt_()


def craig(
    embeddings: Tensor,
    residuals: Tensor,
    classes: Tensor,
    k: int,
    generator: torch.Generator,
    chunk: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Greedy facility location on last-layer gradients, per class. Mirzasoleiman et al. (ICML 2020).

    Each class is cut at random into parts of at most ``chunk`` samples, so that memory stays at chunk^2. The
    quota of a part is in proportion to its size.

    Args:
        classes: (n,) int64, the class of each sample.

    Returns:
        positions (k,) and weights (k,): the size of the cluster that each stands for, scaled to mean 1.
    """
    parts = [
        part
        for label in classes.unique()
        for part in random_parts((classes == label).nonzero().flatten(), chunk, generator)
    ]
    indices, weights = [], []
    for part, quota in zip(parts, shares([len(part) for part in parts], k), strict=True):
        if quota == 0:
            continue
        distance = gradient_distances(embeddings[part], residuals[part])
        chosen = facility_location(distance.max() - distance, quota)
        cluster = distance[:, chosen].argmin(1)
        indices.append(part[chosen])
        weights.append(torch.bincount(cluster, minlength=quota).float())
    weight = torch.cat(weights)
    return torch.cat(indices), weight * (len(weight) / weight.sum())
