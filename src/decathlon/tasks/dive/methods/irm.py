"""Invariant risk minimisation (Arjovsky et al., 2019)."""

import torch

from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Plain, Step
from decathlon.tasks.dive.methods.environments import environment_means


class Irm(Plain):
    """The mean loss, plus ``penalty`` times the mean over environments of (d L_e(w logits) / dw at w = 1)^2.

    Args:
        penalty: 0.1, 1, 10 and 100 were searched by the benchmark.
    """

    needs_environments = True

    def __init__(self, backbone: Backbone, regression: str = "l1", penalty: float = 1.0) -> None:
        super().__init__(backbone, regression)
        self.penalty = penalty

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        logits = self.predict(batch)[0]
        scale = torch.ones((), dtype=logits.dtype, device=logits.device, requires_grad=True)
        losses = self.losses(scale * logits, batch.y)
        slopes = [torch.autograd.grad(mean, scale, create_graph=True)[0] for mean in environment_means(losses, batch)]
        penalty = torch.stack(slopes).square().mean()
        return {"loss": losses.mean() + self.penalty * penalty, "penalty": penalty}
