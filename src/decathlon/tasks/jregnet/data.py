"""The LightningDataModule: an index of stacked runs for val and test, a count of steps for training.

Profiles themselves are drawn by :class:`~.market.Market` as functions of (split, seed) or (seed, step).
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from decathlon.errors import ConfigError
from decathlon.tasks.jregnet.market import Market


class Steps(IterableDataset):
    """Numbers 0 … n-1; not split among devices: in each step every device draws profiles of its own, or takes its own
    batch of a fixed training set (:class:`~.market.TrainingProfiles`)."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def __len__(self) -> int:
        return self.count


class JointAuctionData(LightningDataModule):
    """Loops for ``iterations`` training iterations in ``evaluations`` epochs, and one test item per stacked run.

    Args:
        market: keyword arguments of :class:`~.market.Market`.
        chunk: training iterations per training step.
    """

    def __init__(
        self, market: Mapping[str, Any], seeds_per_job: int, iterations: int, evaluations: int, chunk: int
    ) -> None:
        super().__init__()
        for name, number in (("evaluations", evaluations), ("chunk", chunk)):
            if number < 1:
                raise ConfigError(f"{name}={number} must be at least 1")
        Market(**market)  # a bad setting or log ends here, before anything is written
        self.runs, self.iterations, self.evaluations, self.chunk = seeds_per_job, iterations, evaluations, chunk

    def train_dataloader(self) -> DataLoader:
        warnings.filterwarnings("ignore", message=".*IterableDataset.*__len__.*")  # one process: no worker repeats it
        chunk = 1 if self.trainer is not None and self.trainer.world_size > 1 else self.chunk
        return DataLoader(Steps(-(-self.iterations // (self.evaluations * chunk))), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(range(self.runs), batch_size=1)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader:
        return DataLoader(range(self.runs), batch_size=1)  # type: ignore[arg-type]
