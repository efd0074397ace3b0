"""Splits of a dataset into training, validation and test part."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from decathlon.errors import ConfigError, DataError


class Split(NamedTuple):
    """Positions (int64) of the three parts; disjoint."""

    train: Tensor
    val: Tensor
    test: Tensor


def random_split(n: int, seed: int = 42, sizes: Sequence[int] | None = None, published: int | None = None) -> Split:
    """Shuffle 0..n-1 with Python's ``random.Random(seed)`` and cut it: 80 % / 10 % / rest.

    Args:
        n: number of molecules.
        seed: of the shuffle; 42 is the paper's.
        sizes: numbers of training and validation molecules instead of the shares, as QM9's 110,000 and 10,000.
        published: the number of molecules that ``sizes`` were made for; where fewer are there and ``sizes`` do not
            fit into them, they are scaled by n / published.

    Raises:
        ConfigError: ``sizes`` are not two positive whole numbers, or leave nothing for the test part.
    """
    order = list(range(n))
    random.Random(seed).shuffle(order)
    train, val = int(0.8 * n), int(0.1 * n)
    if sizes is not None:
        whole = [isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes]
        if len(whole) != 2 or not all(whole):
            raise ConfigError(f"split_sizes={list(sizes)} are not the numbers of training and validation molecules")
        share = n / published if sum(sizes) >= n and published is not None and n < published else 1.0
        train, val = int(sizes[0] * share), int(sizes[1] * share)
        if train + val >= n:
            raise ConfigError(f"split_sizes={list(sizes)} leave none of {n} molecules for the test part")
    return Split(*torch.tensor(order, dtype=torch.int64).split([train, val, n - train - val]))


def scaffold_split(scaffolds: Sequence[str]) -> Split:
    """Whole Bemis-Murcko scaffolds to one part each, large ones first: 80 % / 10 % / rest (deterministic).

    Scaffold groups, largest first (ties: the group of the earlier molecule first), go to training until it is full,
    then to validation, then to test. Molecules without a ring share the empty scaffold.

    Raises:
        DataError: one scaffold has so many molecules that a part stays empty.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, scaffold in enumerate(scaffolds):
        groups[scaffold].append(i)
    n = len(scaffolds)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for group in sorted(groups.values(), key=lambda members: (-len(members), members[0])):
        if len(parts[0]) + len(group) <= 0.8 * n:
            parts[0].extend(group)
        elif len(parts[0]) + len(parts[1]) + len(group) <= 0.9 * n:
            parts[1].extend(group)
        else:
            parts[2].extend(group)
    empty = [name for name, part in zip(Split._fields, parts, strict=True) if not part]
    if empty and n:
        name, members = max(groups.items(), key=lambda item: len(item[1]))
        which = f"the scaffold {name}" if name else "no ring, which counts as one scaffold"
        raise DataError(
            f"split=scaffold leaves the {empty[0]} part empty: {len(members)} of {n} molecules have {which}; "
            "use split=random"
        )
    return Split(*(torch.tensor(part, dtype=torch.int64) for part in parts))
