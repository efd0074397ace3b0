"""The data of a job as a LightningDataModule. A batch is the number of an epoch: triples are drawn in the module."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from decathlon.build import build
from decathlon.errors import ConfigError, DataError
from decathlon.recommendation.interactions import ItemLists
from decathlon.recommendation.splits import Split
from decathlon.tasks.ckd.catalogue import SCALINGS, SPLITS, describe

log = logging.getLogger(__name__)


class MultimodalData(LightningDataModule):
    """Interactions in three parts, and item features by modality.

    Args:
        root: data folder.
        dataset: config with ``source`` (the class of a source and its arguments).
        own: arguments of ``dataset=files``: ``interactions``, ``features``, ``item_ids``.
        split: ``published``, ``per_user``, ``leave_one_out`` or ``time``; None: published, if the source has a split.
        split_seed: of random splits. scale: of the features: ``none``, ``rows``, ``columns``.
        modalities: use these only; None: all.
        max_users: use the first so many users only.
        evaluate_every: epochs of one Lightning epoch, which ends with a validation.

    Attributes:
        train, val, test: items of each user. features: {modality: (items, d)}.
        user_ids, item_ids: what the source calls each user and item; None: by its number.
    """

    train: ItemLists
    val: ItemLists
    test: ItemLists
    features: dict[str, Tensor]
    user_ids: list[Any] | None
    item_ids: list[Any] | None

    def __init__(
        self, root: str | Path, dataset: Mapping[str, Any], own: Mapping[str, Any] | None = None,
        split: str | None = None, split_seed: int = 0, scale: str = "none", modalities: list[str] | None = None,
        max_users: int | None = None, evaluate_every: int = 5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.root, self.label = Path(root), str(dataset.get("name", "dataset"))
        if split is not None and split not in SPLITS:
            raise ConfigError(f"split={split} is unknown; choose {', '.join(SPLITS)}")
        if scale not in SCALINGS:
            raise ConfigError(f"scale={scale} is unknown; choose {', '.join(SCALINGS)}")
        if max_users is not None and max_users < 1:
            raise ConfigError(f"max_users={max_users} must be at least 1")
        given = {key: value for key, value in (own or {}).items() if value is not None}
        if given and not dataset.get("own"):
            raise ConfigError(f"{next(iter(given))}= is of dataset=files; dataset={self.label} has its own data")
        self.source = build({**dataset["source"], **given}, called=f"dataset={self.label}, source")
        self.how, self.split_seed, self.scale = split, int(split_seed), scale
        self.modalities, self.max_users, self.evaluate_every = modalities, max_users, evaluate_every
        self._ready = False

    def prepare_data(self) -> None:
        """Fetch what is not there."""
        if hasattr(self.source, "fetch"):
            self.source.fetch(self.root)

    def fetch_data(self) -> list[Path]:
        """Fetch, read and check everything; the folders of what is there now."""
        self.prepare_data()
        self.setup()
        return [self.source.fetch(self.root).parent] if hasattr(self.source, "fetch") else []

    def setup(self, stage: str | None = None) -> None:
        """Read and split. All parts are read, whatever ``stage`` is."""
        if self._ready:
            return
        catalogue = self.source.read(self.root).first_users(self.max_users).scaled(self.scale)
        split = catalogue.split(self.how, self.split_seed)
        self.features = self._chosen(catalogue.features)
        self.user_ids, self.item_ids = catalogue.user_ids, catalogue.item_ids
        self.train, self.val, self.test = (part.lists for part in split)
        log.info("%s: %s", self.label, describe(split, self.features))
        self._say_oddities(split)
        self._ready = True

    def _chosen(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.modalities is None:
            return features
        unknown = [name for name in self.modalities if name not in features]
        if unknown:
            raise DataError(f"modalities: {self.label} has no {unknown[0]}; choose {', '.join(features) or 'none'}")
        return {name: features[name] for name in self.modalities}

    def _say_oddities(self, split: Split) -> None:
        """What is odd but can be: in one line each, with a count."""
        held = (self.val.count + self.test.count) > 0
        untrained = int((held & (self.train.count == 0)).sum())
        if untrained:
            log.warning(
                "%s: %d users have held-out items and none to train on; vectors that nobody trained rank for them",
                self.label, untrained,
            )  # fmt: skip
        full = int((self.train.count == self.train.items).sum())
        if full:
            log.warning("%s: %d users have taken all items; they are left out of training", self.label, full)
        twice = int(self.train.contains(self.test.user, self.test.item).sum())
        twice += int(self.train.contains(self.val.user, self.val.item).sum())
        if twice:
            raise DataError(f"{self.label}: {twice} held-out interactions are in the training part too: a leak")

    def train_dataloader(self) -> DataLoader[int]:
        """The places of the epochs between two validations."""
        return DataLoader(range(self.evaluate_every), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[int]:
        """One batch: everything."""
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[int]:
        """One batch: everything."""
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]
