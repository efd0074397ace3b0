"""Who sells with whom: the edge lists of the bipartite graphs between stores and brands."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

Edges = list[tuple[int, int]]

KINDS = ("full", "disjoint", "path", "edges", "random")


def full(stores: int, brands: int) -> Edges:
    """Every store with every brand."""
    return [(store, brand) for store in range(stores) for brand in range(brands)]


def disjoint(stores: int, brands: int) -> Edges:
    """Store i with brand i only."""
    return [(number, number) for number in range(min(stores, brands))]


def path(stores: int, brands: int) -> Edges:
    """The path (0,0), (0,1), (1,1), (1,2), ... through all stores and brands that it can reach."""
    steps = [(number // 2, (number + 1) // 2) for number in range(2 * max(stores, brands))]
    return [(store, brand) for store, brand in steps if store < stores and brand < brands]


def random(stores: int, brands: int, bundles: int, generator: Generator) -> Edges:
    """``bundles`` different pairs, drawn without replacement."""
    pairs = full(stores, brands)
    if not 1 <= bundles <= len(pairs):
        raise ValueError(f"bundles={bundles} random bundles: {stores} stores x {brands} brands allow 1 to {len(pairs)}")
    chosen = torch.randperm(len(pairs), generator=generator)[:bundles]
    return [pairs[number] for number in sorted(chosen.tolist())]


def random_presence(samples: int, pairs: int, bundles: int, generator: Generator) -> Tensor:
    """(samples, pairs) bool: a fresh random set of ``bundles`` pairs in every row."""
    ranks = torch.rand(samples, pairs, generator=generator).argsort(1)
    return torch.zeros(samples, pairs, dtype=torch.bool).scatter_(1, ranks[:, :bundles], True)


def from_spec(spec: Mapping[str, Any] | Sequence[Sequence[int]] | str, stores: int, brands: int, seed: int) -> Edges:
    """The edges that a config names: a kind, an edge list, or ``{kind: random, bundles: 8, per: run, seed: null}``.

    A random graph is drawn once per run, from ``seed``, unless the spec has its own; with ``per: sample`` this
    returns all pairs (each sample then has its own subset, see :func:`random_presence`).
    """
    if isinstance(spec, str):
        spec = {"kind": spec}
    if not isinstance(spec, Mapping):
        spec = {"kind": "edges", "edges": spec}
    kind = spec.get("kind")
    if kind == "full":
        return full(stores, brands)
    if kind == "disjoint":
        return disjoint(stores, brands)
    if kind == "path":
        return path(stores, brands)
    if kind == "edges":
        return [(int(edge[0]), int(edge[1])) for edge in spec["edges"]]
    if kind == "random":
        if spec.get("per", "run") not in ("run", "sample"):
            raise ValueError(f"graph.per={spec['per']} is unknown; choose run or sample")
        if spec.get("per", "run") == "sample":
            random(stores, brands, int(spec["bundles"]), Generator().manual_seed(0))
            return full(stores, brands)
        own = spec.get("seed")
        return random(stores, brands, int(spec["bundles"]), Generator().manual_seed(seed if own is None else int(own)))
    raise ValueError(f"graph.kind={kind} is unknown; choose {', '.join(KINDS)}")
