"""Domain-adversarial training (Ganin et al., JMLR 2016)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Plain, Step


class Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


class Dann(Plain):
    """The mean loss, plus ``penalty`` times the cross-entropy of a linear classifier of environments.

    Its gradient reaches the encoder reversed, times 2 / (1 + exp(-10 p)) - 1 at the progress p of the training.

    Args:
        penalty: 0.001 to 1 were searched by the benchmark.
    """

    needs_environments = True

    def __init__(self, backbone: Backbone, regression: str = "l1", penalty: float = 0.1) -> None:
        super().__init__(backbone, regression)
        self.penalty = penalty
        self.domain = nn.Linear(backbone.width, max(1, backbone.spec.environments))

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        vectors = self.net.represent(batch, self.copies(batch))
        losses = self.losses(self.net.head(vectors)[0], batch.y)
        factor = 2 / (1 + math.exp(-10 * step.progress)) - 1
        domain = cross_entropy(self.domain(Reverse.apply(vectors[0], factor)), batch.more["env"])
        return {"loss": losses.mean() + self.penalty * domain, "domain_loss": domain}
