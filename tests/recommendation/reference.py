"""Slow per-user metrics, written independently of the fast ones."""

import math

import torch
from torch import Tensor

from decathlon.recommendation.interactions import ItemLists


def of_user(scores: Tensor, seen: set[int], held: set[int], k: int, widest: int) -> dict[str, float]:
    """Recall, precision, hit and both NDCGs at k of one user, by sorting all scores."""
    ranked = [i for i in torch.argsort(scores, descending=True).tolist() if i not in seen][:widest]
    hits = [float(i in held) for i in ranked]
    gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits[:k]))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(held))))
    own = sum(hit / math.log2(place + 2) for place, hit in enumerate(sorted(hits, reverse=True)[:k]))
    count = sum(hits[:k])
    return {
        f"recall@{k}": count / len(held),
        f"precision@{k}": count / k,
        f"ndcg@{k}": gain / ideal,
        f"ndcg_official@{k}": gain / own if own else 0.0,
        f"hit@{k}": float(count > 0),
    }


def means(scores: Tensor, seen: ItemLists, held: ItemLists, ks: tuple[int, ...]) -> dict[str, float]:
    """Means over the users with held-out items."""
    found: dict[str, list[float]] = {}
    for user in range(held.users):
        wanted = set(held[user].tolist())
        if wanted:
            for k in ks:
                for name, value in of_user(scores[user], set(seen[user].tolist()), wanted, k, max(ks)).items():
                    found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
