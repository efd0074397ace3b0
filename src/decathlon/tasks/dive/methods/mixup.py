"""Mixup of graph vectors (Zhang et al., 2018; for graphs Wang et al., 2021)."""

import torch

from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Plain, Step


class Mixup(Plain):
    """Graph vectors are mixed with those of a permutation, t ~ Beta(alpha, alpha), and so are the losses.

    Args:
        alpha: 0.4, 1 and 2 were searched by the benchmark.
    """

    def __init__(self, backbone: Backbone, regression: str = "l1", alpha: float = 1.0) -> None:
        super().__init__(backbone, regression)
        if alpha <= 0:
            raise ConfigError(f"method=mixup: alpha={alpha} must be positive")
        self.alpha = alpha

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        vectors = self.net.represent(batch, self.copies(batch))
        a = torch.tensor(float(self.alpha))
        share = float(torch.distributions.Beta(a, a).sample())
        order = torch.randperm(len(batch), device=vectors.device)
        logits = self.net.head(share * vectors + (1 - share) * vectors[:, order])[0]
        losses = share * self.losses(logits, batch.y) + (1 - share) * self.losses(logits, batch.y[order])
        return {"loss": losses.mean()}
