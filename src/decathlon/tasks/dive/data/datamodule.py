"""The five parts of a dataset as a LightningDataModule."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from decathlon.build import build
from decathlon.distributed import rank, world_size
from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.loader import BatchLoader
from decathlon.orders import BatchOrder
from decathlon.tasks.dive.data.parts import PARTS, Parts

EVALUATION_NODES = 8192


class Epochs:
    """The epoch that the order of training is of; a Trainer sets it."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class GraphData(pl.LightningDataModule):
    """Graphs with a shift.

    Training batches are whole: what is left of an epoch is left out. Their order is a function of seed and epoch. Every
    process evaluates everything.

    Args:
        root: data folder.
        dataset: ``source`` (class and arguments) and ``name``.
        shift: what differs between the sets, as the source has it. split: ``covariate``, ``concept``, ``none``.
        batch_size: of all processes together. seed: of the order. data_seed: of the graphs and of random cuts.
        path: of a file of one's own, for a source that takes one. limit: use at most so many graphs of each part.

    Attributes:
        parts: the graphs and their spec, after ``setup``.
    """

    parts: Parts | None = None

    def __init__(
        self,
        root: str | Path,
        dataset: Mapping[str, Any],
        shift: str,
        split: str,
        batch_size: int = 32,
        seed: int = 0,
        data_seed: int = 0,
        path: str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(batch_size, bool) or int(batch_size) != batch_size or batch_size < 2:
            raise ConfigError(f"batch_size={batch_size} must be a whole number of at least 2")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit={limit} must be at least 1")
        self.root, self.dataset_name = Path(root), str(dataset.get("name", "graphs"))
        if not isinstance(dataset.get("source"), Mapping):
            raise ConfigError(f"dataset={self.dataset_name} has no source")
        spec = {"name": self.dataset_name, **dataset["source"]}
        if path is not None and "path" not in spec:
            raise ConfigError(f"dataset={self.dataset_name} takes no path=; use dataset=pyg or dataset=csv")
        more = {} if path is None else {"path": path}
        self.source = build(spec, called="dataset", shift=shift, split=split, seed=data_seed, **more)
        self.batch_size, self.seed, self.limit, self.epochs = int(batch_size), int(seed), limit, Epochs()

    def prepare_data(self) -> None:
        """Fetch and featurise what is not cached yet."""
        if self.parts is None and hasattr(self.source, "prepare"):
            self.source.prepare(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read or generate the graphs, and check the parts."""
        if self.parts is not None:
            return
        parts: Parts = self.source.read(self.root)
        if self.limit is not None:
            parts.rows = {name: rows[: self.limit] for name, rows in parts.rows.items()}
        parts.check(self.dataset_name, at_least=2)
        self.order = BatchOrder(len(parts.rows["train"]), self.batch_size, self.seed)
        self.parts = parts

    def _rows(self) -> list[Tensor]:
        assert self.parts is not None
        order, train = self.order, self.parts.rows["train"]
        rows = train[order.epoch(self.epochs.epoch)]
        batches = rows[: order.steps_per_epoch * order.batch_size].split(order.batch_size)
        return [batch[rank() :: world_size()] for batch in batches]

    def train_dataloader(self) -> BatchLoader:
        """The training graphs in the order of the epoch."""
        assert self.parts is not None
        order = self.order
        return BatchLoader(
            self.parts.graphs.batch, self._rows, lambda: order.steps_per_epoch, self.epochs, order.batch_size
        )

    def loaders(self, names: Sequence[str]) -> list[BatchLoader]:
        """Some parts, in order, in large batches."""
        assert self.parts is not None
        return [self._in_order(self.parts, name) for name in names]

    def _in_order(self, parts: Parts, name: str) -> BatchLoader:
        rows = parts.rows[name]
        average = float(parts.graphs.node_count[rows].float().mean())
        batches = list(rows.split(max(1, int(EVALUATION_NODES / max(average, 1.0)))))
        return BatchLoader(parts.graphs.batch, lambda: batches, lambda: len(batches), batch_size=len(batches[0]))

    def val_dataloader(self) -> list[BatchLoader]:
        """ID and OOD validation; with the module's ``curves`` all five parts."""
        module = None if self.trainer is None else self.trainer.lightning_module
        return self.loaders(getattr(module, "watched", ("id_val", "ood_val")))

    def test_dataloader(self) -> list[BatchLoader]:
        """All five parts."""
        return self.loaders(PARTS)

    def transfer_batch_to_device(self, batch: FeatureBatch, device: torch.device, dataloader_idx: int) -> FeatureBatch:
        """The batch on ``device``."""
        return batch.to(device)
