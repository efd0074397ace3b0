"""What a dataset is to this task: a split of interactions, and features of the items in several modalities."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from decathlon.errors import DataError
from decathlon.recommendation.interactions import Interactions
from decathlon.recommendation.splits import Split, by_column, by_time, leave_one_out, per_user

log = logging.getLogger(__name__)

SPLITS = ("published", "per_user", "leave_one_out", "time")
SCALINGS = ("none", "rows", "columns")


@dataclass(frozen=True)
class Catalogue:
    """Interactions and features.

    Args:
        rows: all interactions. features: {name: (items, d) float32}.
        part: (n,) 0 training, 1 validation, 2 test, where the source has a split of its own.
        user_ids, item_ids: what the source calls each; None: by its number.
    """

    rows: Interactions
    features: dict[str, Tensor]
    part: Tensor | None = None
    user_ids: list[Any] | None = None
    item_ids: list[Any] | None = None

    def split(self, how: str | None, seed: int) -> Split:
        """The parts.

        Args:
            how: one of :data:`SPLITS`; None: the published one, or the random one of each user where there is none.

        Raises:
            DataError: the data cannot be split so, or nothing is left to train, select or test on.
        """
        how = how or ("per_user" if self.part is None else "published")
        if how == "published":
            if self.part is None:
                raise DataError("split=published: this data has none of its own; choose per_user, leave_one_out, time")
            split = by_column(self.rows, self.part)
        elif how == "time":
            split = by_time(self.rows)
        else:
            split = per_user(self.rows, seed) if how == "per_user" else leave_one_out(self.rows, seed)
        for name, part in split._asdict().items():
            if not len(part):
                what = {"train": "training", "val": "validation", "test": "test"}[name]
                raise DataError(f"split={how}: no {what} row is left of {len(self.rows)} interactions")
        return split

    def first_users(self, count: int | None) -> "Catalogue":
        """The same with the interactions of the first ``count`` users only."""
        if count is None or count >= self.rows.users:
            return self
        kept = self.rows.user < count
        return replace(
            self, rows=replace(self.rows.select(kept), users=count), part=None if self.part is None else self.part[kept]
        )

    def scaled(self, how: str) -> "Catalogue":
        """The features as they are, with rows of length 1, or with columns of mean 0 and variance 1."""
        if how == "none":
            return self
        scale = functional.normalize if how == "rows" else _standardise
        return replace(self, features={name: scale(values) for name, values in self.features.items()})


def _standardise(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / values.std(0).clamp(min=1e-6)


def checked_features(name: str, values: Tensor, items: int, source: Any) -> Tensor:
    """The features of one modality as (items, d) float32.

    Raises:
        DataError: another shape, another number of rows, or a number that is not finite; the line names ``source``.
    """
    if not name.isidentifier() or hasattr(torch.nn.ModuleDict(), name):
        raise DataError(f"{source}: {name} cannot be the name of a modality; take a word such as image or text")
    if values.dim() != 2 or not values.shape[1]:
        raise DataError(f"{source}: features of {name} have shape {tuple(values.shape)}, not (items, dimensions)")
    if len(values) != items:
        raise DataError(f"{source}: features of {name} have {len(values)} rows, and there are {items} items")
    values = values.float()
    odd = ~values.isfinite().all(1)
    if bool(odd.any()):
        raise DataError(
            f"{source}: features of {name} are not finite in {int(odd.sum())} rows, first in {int(odd.nonzero()[0])}"
        )
    constant = int((values == 0).all(1).sum())
    if constant:
        log.warning("%s: %d of %d items have only zeros as features of %s", source, constant, items, name)
    return values


def describe(split: Split, features: Mapping[str, Tensor]) -> str:
    """One line of what there is."""
    train, val, test = split
    sizes = ", ".join(f"{name} {values.shape[1]}-d" for name, values in features.items()) or "no features"
    return (
        f"{train.users} users, {train.items} items; {len(train)} interactions to train, {len(val)} to select, "
        f"{len(test)} to test; {sizes}"
    )
