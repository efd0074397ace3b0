"""What the methods that know environments share: losses environment by environment."""

import torch
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch


def present(batch: FeatureBatch) -> tuple[Tensor, Tensor]:
    """The place of each graph's environment among those in the batch, (B,) int64, and how many graphs each has."""
    _, place, count = torch.unique(batch.more["env"], return_inverse=True, return_counts=True)
    return place, count


def environment_means(losses: Tensor, batch: FeatureBatch) -> Tensor:
    """The mean of the samples' losses (B,) in each environment of the batch: (K,)."""
    place, count = present(batch)
    return losses.new_zeros(len(count)).index_add(0, place, losses) / count
