"""The benchmark's splits by a property of each graph (GOOD, Gui et al., NeurIPS 2022, appendix): covariate and concept.

Graphs are sorted by the property, ascending and stably; graphs with equal values are one domain.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.randomness import generator, numpy_generator
from decathlon.tasks.dive.data.parts import cut_id_sets

SPLITS = ("covariate", "concept", "none")
ENVIRONMENTS = 10
BIAS = (0.95, 0.95, 0.9, 0.85, 0.5)
PICK = (0.3, 0.5, 0.6, 1.0, 1.0)
Array = np.ndarray


def domains(values: Sequence[Any]) -> tuple[Array, Array]:
    """The order by value, and the number of the domain at each place of that order."""
    items = np.asarray(values)
    order = np.argsort(items, kind="stable")
    sorted_ = items[order]
    change = np.concatenate([[False], sorted_[1:] != sorted_[:-1]]) if len(items) else np.zeros(0, bool)
    return order, np.cumsum(change)


def walk(domain: Array, cuts: Sequence[float]) -> Array:
    """The part of each place: it goes up by one where the domain changes and the next cut is reached or passed."""
    part = np.zeros(len(domain), np.int64)
    borders = np.flatnonzero(np.diff(domain)) + 1
    last = 0
    for cut in cuts:
        later = borders[(borders >= cut) & (borders > last)]
        if not len(later):
            break
        last = int(later[0])
        part[last:] += 1
    return part


def covariate(
    values: Sequence[Any],
    seed: int,
    reverse: bool = False,
    cuts: Sequence[float] = (0.8, 0.9),
    id_share: float = 0.1,
    of_train: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Training, OOD validation and OOD test set hold different domains.

    Args:
        values: n, the property of each graph. seed: of the shuffle that the ID sets are taken by.
        reverse: from the largest value down, so that small ones are out of distribution.
        cuts: shares at which the sorted list is cut; each is moved to the next border of a domain. Where that leaves no
            domain for a set and there are three or more, the last two are the OOD sets.
        id_share: size of each ID set, as a share of all graphs, or with ``of_train`` of the training pool.

    Returns:
        The rows of the five parts, and the environment (n,) of each graph: ten equal parts of the training pool, cut at
        borders of domains; 0 elsewhere.
    """
    order, domain = domains(values)
    if reverse:
        order, domain = order[::-1].copy(), domain.max(initial=0) - domain[::-1]
    n = len(order)
    part = walk(domain, [cut * n for cut in cuts])
    if n and part[-1] < 2 <= domain[-1]:  # a few large domains: the last two, where the walk would leave a set empty
        part = np.maximum(domain - (domain[-1] - 2), 0)
    pool = order[part == 0]
    environment = np.zeros(n, np.int64)
    steps = [(i + 1) * len(pool) / ENVIRONMENTS for i in range(ENVIRONMENTS - 1)]
    environment[pool] = walk(domain[part == 0], steps)
    size = int(id_share * (len(pool) if of_train else n))
    train, id_val, id_test = cut_id_sets(torch.from_numpy(pool), size, generator("dive split", seed))
    rows = {"train": train, "id_val": id_val, "id_test": id_test}
    rows |= {name: torch.from_numpy(order[part == i]) for i, name in ((1, "ood_val"), (2, "ood_test"))}
    return rows, torch.from_numpy(environment)


def concept(
    values: Sequence[Any],
    y: Array,
    seed: int,
    centre: str = "mean",
    bias: Sequence[float] = BIAS,
    pick: Sequence[float] = PICK,
    parts: Sequence[str] = ("train", "ood_test", "train", "train", "ood_val"),
    id_share: float = 0.15,
) -> tuple[dict[str, Tensor], Tensor]:
    """All sets hold all domains; how a domain goes with the label differs between them.

    Passes over all molecules that are left. In training passes a domain of the first half of the sorted list prefers
    labels above the centre, one of the second half those below; other passes prefer the opposite. The preferred kind is
    taken when rand_1 < bias and rand_2 < pick, the other when rand_1 > bias and rand_2 < pick. Of a domain that has
    both kinds and gave one only, the last rejected one of the other kind is taken too. The last pass takes the rest.

    Args:
        y: (n,) labels. centre: ``mean``, or ``median``; who lies on it waits for the last pass.
        parts: where each pass goes. id_share: size of each ID set, as a share of the training pool.

    Returns:
        The rows of the five parts, and the environment (n,): the number of the training pass; 0 elsewhere.
    """
    order, domain = domains(values)
    n = len(order)
    rng = numpy_generator("dive concept", seed)
    level = (np.median if centre == "median" else np.mean)(y) if n else 0.0
    first = np.searchsorted(domain, domain)  # where each domain begins
    sign = np.where(first < n / 2, 1, -1)
    signed = sign * np.sign(y[order] - level)
    left = np.arange(n)
    taken: dict[str, list[Array]] = {"train": [], "ood_val": [], "ood_test": []}
    environment = np.zeros(n, np.int64)
    for i, (part, b, r) in enumerate(zip(parts, bias, pick, strict=True)):
        if i == len(parts) - 1:
            chosen = np.ones(len(left), bool)
        else:
            side = signed[left] * (1 if part == "train" else -1)
            one, two = rng.random(len(left)), rng.random(len(left))
            chosen = np.where(side > 0, one < b, one > b) & (two < r) & (side != 0)
            chosen |= _last_of_missing_kind(domain[left], side, chosen)
        rows = order[left[chosen]]
        if part == "train":
            environment[rows] = len(taken["train"])
        taken[part].append(rows)
        left = left[~chosen]
    pool = np.concatenate(taken["train"])
    train, id_val, id_test = cut_id_sets(
        torch.from_numpy(pool), int(id_share * len(pool)), generator("dive split", seed)
    )
    rows_of = {"train": train, "id_val": id_val, "id_test": id_test}
    rows_of |= {name: torch.from_numpy(np.concatenate(taken[name])) for name in ("ood_val", "ood_test")}
    return rows_of, torch.from_numpy(environment)


def _last_of_missing_kind(domain: Array, side: Array, chosen: Array) -> Array:
    """In each domain with both kinds of which one only was chosen: the last of the other kind."""
    more = np.zeros(len(domain), bool)
    if not len(domain):
        return more
    _, of = np.unique(domain, return_inverse=True)
    count = int(of.max()) + 1
    kinds = (side > 0, side < 0)
    there = [np.bincount(of[kind], minlength=count) > 0 for kind in kinds]
    got = [np.bincount(of[kind & chosen], minlength=count) > 0 for kind in kinds]
    for this, other in ((0, 1), (1, 0)):
        lacking = there[0] & there[1] & got[other] & ~got[this]
        last = np.full(count, -1)
        places = np.flatnonzero(kinds[this])
        last[of[places]] = places  # ascending, so the last one stays
        more[last[lacking]] = True
    return more


def no_shift(n: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """60 % training; 20 % validation and 20 % test, each half of them called ID and half OOD."""
    order = torch.randperm(n, generator=generator("dive split", seed))
    train, val = int(0.6 * n), int(0.8 * n)
    rows = {"train": order[:train], "id_val": order[train:val:2], "ood_val": order[train + 1 : val : 2]}
    rows |= {"id_test": order[val::2], "ood_test": order[val + 1 :: 2]}
    return rows, torch.zeros(n, dtype=torch.int64)
