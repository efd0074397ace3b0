"""Deep CORAL (Sun and Saenko, 2016): equal covariances of the graph vectors of all environments."""

import torch
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Plain, Step
from decathlon.tasks.dive.methods.environments import present


class Coral(Plain):
    """The mean loss, plus ``penalty`` times the mean over pairs of environments of mean((C_i - C_j)^2) / 4.

    Args:
        penalty: 0.001 to 1 were searched by the benchmark.
    """

    needs_environments = True

    def __init__(self, backbone: Backbone, regression: str = "l1", penalty: float = 0.1) -> None:
        super().__init__(backbone, regression)
        self.penalty = penalty

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        vectors = self.net.represent(batch, self.copies(batch))
        losses = self.losses(self.net.head(vectors)[0], batch.y)
        place, count = present(batch)
        penalty = covariance_distance(vectors[0], place, count)
        return {"loss": losses.mean() + self.penalty * penalty, "penalty": penalty}


def covariance_distance(vectors: Tensor, place: Tensor, count: Tensor) -> Tensor:
    """The mean over pairs of environments with two graphs or more of mean((C_i - C_j)^2) / 4; 0 without a pair."""
    covariances = [torch.cov(vectors[place == e].T).flatten() for e in (count > 1).nonzero().flatten().tolist()]
    if len(covariances) < 2:
        return vectors.new_zeros(())
    table = torch.stack(covariances)
    i, j = torch.triu_indices(len(table), len(table), 1, device=table.device)
    return (table[i] - table[j]).square().mean() / 4
