"""All-item ranking: for every user the best items that it has not taken yet, and what of the held-out ones is there."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from decathlon.recommendation.interactions import ItemLists

Scores = Callable[[Tensor], Tensor]
"""From users (b,) to scores of all items (b, items)."""

CELLS = 2**22  # scores at a time


def top_items(scores: Scores, seen: ItemLists, users: Tensor, k: int) -> Tensor:
    """The ``k`` items of highest score for each user, without those ``seen``: (U, k) int64, best first.

    Where a user has fewer items left than ``k``, and where a score is NaN, the rest is -1: no item. The order of items
    of equal score is arbitrary.
    """
    chunk = max(1, CELLS // max(1, seen.items))
    k_here = min(k, seen.items)
    found = torch.full((len(users), k), -1, dtype=torch.int64)
    for begin in range(0, len(users), chunk):
        part = users[begin : begin + chunk]
        values = scores(part).detach()
        values = torch.nan_to_num(values, nan=-torch.inf)
        counts = seen.count[part]
        row = torch.repeat_interleave(torch.arange(len(part)), counts)
        offset = torch.arange(len(row)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        taken = seen.item[seen.start[part][row] + offset]
        values[row.to(values.device), taken.to(values.device)] = -torch.inf
        best = values.topk(k_here, dim=1)
        items = torch.where(best.values == -torch.inf, -1, best.indices)
        found[begin : begin + chunk, :k_here] = items.cpu()
    return found


def rank_all(scores: Scores, seen: ItemLists, held: ItemLists, k: int) -> tuple[Tensor, Tensor]:
    """Where the held-out items are among the best ``k``, for all users who have any.

    Args:
        scores: of all items for some users. seen: training items, which are not ranked. held: what is looked for.

    Returns:
        Hits (U, k) bool, and the number of held-out items of each of these users (U,).
    """
    users = (held.count > 0).nonzero()[:, 0]
    top = top_items(scores, seen, users, k)
    hits = held.contains(users[:, None], top.clamp(min=0)) & (top >= 0)
    return hits, held.count[users]


def ranking_metrics(hits: Tensor, positives: Tensor, ks: Sequence[int] = (10, 20)) -> dict[str, Tensor]:
    """Metrics of each user from :func:`rank_all`: ``recall@k``, ``precision@k``, ``ndcg@k``, ``ndcg_official@k``,
    ``hit@k``, each (U,) float64.

    ``ndcg`` is divided by the gain of a perfect list of the user's held-out items. ``ndcg_official``, of the LATTICE
    family's code, by that of the retrieved list itself, cut at the largest k and sorted: it is never below ``ndcg``.
    """
    width = max(ks)
    if width > hits.shape[1]:
        raise ValueError(f"the best {hits.shape[1]} items are known; metrics at {width} need more")
    hits = hits[:, :width].double()
    discount = 1 / torch.arange(2, width + 2, dtype=torch.float64).log2()
    ideal = torch.cat([torch.zeros(1, dtype=torch.float64), discount.cumsum(0)])
    retrieved = hits.sum(1).long()
    found: dict[str, Tensor] = {}
    for k in ks:
        count = hits[:, :k].sum(1)
        gain = hits[:, :k] @ discount[:k]
        best = ideal[retrieved.clamp(max=k)]
        found[f"recall@{k}"] = count / positives
        found[f"precision@{k}"] = count / k
        found[f"ndcg@{k}"] = gain / ideal[positives.clamp(max=k)]
        found[f"ndcg_official@{k}"] = torch.where(best > 0, gain / best.clamp(min=1e-12), 0.0)
        found[f"hit@{k}"] = (count > 0).double()
    return found


def evaluate(scores: Scores, seen: ItemLists, held: ItemLists, ks: Sequence[int] = (10, 20)) -> dict[str, float]:
    """Means of :func:`ranking_metrics` over the users with held-out items; NaN where there are none."""
    hits, positives = rank_all(scores, seen, held, max(ks))
    return {name: float(values.mean()) for name, values in ranking_metrics(hits, positives, ks).items()}


def inner_products(users: Tensor, items: Tensor) -> Scores:
    """Scores <users[u], items[i]> of two embedding matrices (nu, D), (ni, D)."""
    transposed = items.t()
    return lambda chosen: users[chosen] @ transposed
