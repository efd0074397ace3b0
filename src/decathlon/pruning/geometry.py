"""Subsets by geometry: herding, prototypicality clusters, k-center. Greedy loops over vectorised steps."""

from collections.abc import Callable

import torch
from torch import Tensor

from decathlon.pruning.evidence import chunks

Distances = Callable[[int], Tensor]  # position -> (n,) distances of all samples to that one


def herding(embeddings: Tensor, k: int, variant: str = "argmin") -> Tensor:
    """The k samples, in order, that keep the subset's mean closest to the mean mu of all. Welling (ICML
    2009).

    Adds argmin_i ||(t + 1) mu - sum_S - z_i||. ``variant="argmax"`` takes the farthest instead, as the code
    that MolPeg's authors built on does; it picks outliers.

    Args:
        embeddings: (n, d).
    """
    if variant not in ("argmin", "argmax"):
        raise ValueError(f"herding_variant={variant!r} is none; choose argmin or argmax")
    sign = 1.0 if variant == "argmin" else -1.0
    centred = embeddings - embeddings.mean(0)
    square = centred.square().sum(1)
    target = torch.zeros_like(centred[0])  # (t + 1) mu - sum_S, in centred coordinates
    taken = torch.zeros(len(embeddings))
    order = torch.empty(k, dtype=torch.int64)
    for t in range(k):
        best = (sign * (square - 2 * (centred @ target)) + taken).argmin()
        order[t] = best
        taken[best] = torch.inf
        target -= centred[best]
    return order


def k_center(n: int, k: int, distances: Distances, start: int) -> Tensor:
    """Greedy k-center: from ``start`` on, add argmax_i min_{j in S} d(i, j). The k positions in order."""
    order = torch.empty(k, dtype=torch.int64)
    nearest = torch.full((n,), torch.inf)
    new = start
    for t in range(k):
        order[t] = new
        nearest = torch.minimum(nearest, distances(new))
        nearest[new] = -torch.inf
        new = int(nearest.argmax())
    return order


def symmetric_kl(logits: Tensor) -> Distances:
    """Symmetric Kullback-Leibler divergence of independent Bernoulli predictions, summed over tasks.

    KL(p|q) + KL(q|p) = sum_t (p_t - q_t) (logit p_t - logit q_t). logits: (n, T).
    """
    p = logits.sigmoid()
    if logits.shape[1] == 1:
        flat, prob = logits[:, 0].contiguous(), p[:, 0].contiguous()
        return lambda j: (prob - prob[j]).mul_(flat - flat[j])
    return lambda j: (p - p[j]).mul_(logits - logits[j]).sum(1)


def similarity(features: Tensor, centres: Tensor, measure: str) -> Tensor:
    """Similarity of rows (n, f) to centres (K, f): (n, K), by Tanimoto or cosine."""
    a, b = features.float(), centres.float()
    product = a @ b.T
    if measure == "cosine":
        return product / (a.norm(dim=1, keepdim=True) * b.norm(dim=1)).clamp_min(1e-12)
    if measure == "tanimoto":
        square = a.square().sum(1, keepdim=True) + b.square().sum(1)
        return product / (square - product).clamp_min(1e-12)
    raise ValueError(f"similarity={measure!r} is none; choose cosine or tanimoto")


def cluster(
    features: Tensor,
    clusters: int,
    generator: torch.Generator,
    measure: str = "cosine",
    iterations: int = 10,
) -> tuple[Tensor, Tensor]:
    """K-means by similarity: each row's cluster (n,) int64 and its similarity (n,) to that centroid."""
    n = len(features)
    clusters = min(clusters, n)
    centres = features[torch.randperm(n, generator=generator)[:clusters]].float()
    for iteration in range(iterations + 1):
        parts = [similarity(features[rows], centres, measure).max(1) for rows in chunks(n)]
        own = torch.cat([part.values for part in parts])
        label = torch.cat([part.indices for part in parts])
        if iteration == iterations:
            break
        size = torch.bincount(label, minlength=clusters)
        total = torch.zeros_like(centres)
        for rows in chunks(n):
            total.index_add_(0, label[rows], features[rows].float())
        centres = torch.where(size[:, None] > 0, total / size.clamp_min(1)[:, None], centres)
    return label, own


def least_prototypical(label: Tensor, own: Tensor, k: int, balance: float = 0.5) -> Tensor:
    """The k samples least similar to their centroid, at least balance * share * k of each cluster.

    Args:
        label: (n,) the cluster of each sample.
        own: (n,) similarity to its centroid.
    """
    n = len(label)
    by_similarity = own.argsort()
    order = by_similarity[label[by_similarity].argsort(stable=True)]  # clusters one after the other, far first
    size = torch.bincount(label)
    rank = torch.arange(n) - (size.cumsum(0) - size)[label[order]]
    minimum = (balance * size / n * k + 1e-9).floor().long()
    forced = torch.zeros(n, dtype=torch.bool)
    forced[order[rank < minimum[label[order]]]] = True
    rest = by_similarity[~forced[by_similarity]]
    return torch.cat([forced.nonzero().flatten(), rest[: k - int(forced.sum())]]).sort().values
