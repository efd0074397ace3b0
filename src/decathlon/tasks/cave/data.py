"""The scenarios (or random decisions) of a dataset, as a LightningDataModule: a batch is a tensor of their numbers."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from decathlon.errors import ConfigError
from decathlon.tasks.cave.sources import Source


class Scenarios(L.LightningDataModule):
    """Numbers from 0 on; what they stand for follows from the number and the seed.

    Args:
        root, dataset, seed, size, density: see ``sources.Source``.
        scenarios: how many there are (``size["count"]`` for random decisions).
        batch_size: how many are simulated together. No result depends on it.
    """

    def __init__(
        self,
        root: str,
        dataset: Mapping[str, Any],
        seed: int,
        size: Mapping[str, Any],
        scenarios: int,
        batch_size: int,
        density: float | None = None,
    ) -> None:
        super().__init__()
        if scenarios < 1 or batch_size < 1:
            raise ConfigError(f"scenarios={scenarios} and batch_size={batch_size} must be at least 1")
        self.source = Source(root, dataset, seed, size, density)
        self.count = size["count"] if self.source.kind == "instances" else scenarios
        self.batch_size = batch_size

    def prepare_data(self) -> None:
        """Read the trace, run SUMO, or find the optima: each once."""
        self.source.prepare()

    def test_dataloader(self) -> DataLoader[int]:
        """Batches of numbers, in order."""
        return DataLoader(range(self.count), batch_size=self.batch_size, collate_fn=torch.tensor)  # type: ignore[arg-type]
