"""Molecules out of distribution by inferred environments (MoleOOD; Yang et al., NeurIPS 2022; reconstructed)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Linear
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Plain, Step


class MoleOod(Plain):
    """Environments are inferred from graph and label, and the losses must not vary between them.

    A network q(e | G, y) over K environments and predictors p(y | G, e) are trained by the variational bound
    E_q[loss(y | G, e)] + KL(q || uniform); the predictor by the mean loss plus ``penalty`` times the variance of its
    losses' means under q, without gradient to q. (The published method attends to substructures of molecules; here the
    graph network takes their place.)

    Args:
        environments: K. penalty: of the variance. prior: weight of the divergence.
    """

    def __init__(
        self,
        backbone: Backbone,
        regression: str = "l1",
        environments: int = 3,
        penalty: float = 1.0,
        prior: float = 0.1,
    ) -> None:
        super().__init__(backbone, regression)
        if environments < 2:
            raise ConfigError(f"method=moleood: environments={environments} must be at least 2")
        spec = backbone.spec
        self.environments, self.penalty, self.prior = environments, penalty, prior
        self.classes = spec.outputs if spec.task == "multiclass" else 0
        labels = self.classes or 2 * spec.outputs  # the labels, and which of them are known
        self.inferrer, self.conditional = backbone.encoder(), backbone.encoder()
        self.guess = nn.Sequential(
            Linear(1, backbone.width + labels, backbone.width), nn.ReLU(), Linear(1, backbone.width, environments)
        )
        self.heads = Linear(1, backbone.width, environments * spec.outputs)

    def _labels(self, y: Tensor) -> Tensor:
        if self.classes:
            return one_hot(y[:, 0].long(), self.classes).float()
        return torch.cat([y.nan_to_num(0.0), (~y.isnan()).float()], 1)

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        copies = self.copies(batch)
        vectors = copies.mean_nodes(self.inferrer(batch, copies))
        log_q = self.guess(torch.cat([vectors, self._labels(batch.y)[None]], 2))[0].log_softmax(1)
        given = self.heads(copies.mean_nodes(self.conditional(batch, copies)))[0]
        each = self.losses(given.unflatten(1, (self.environments, -1)).transpose(0, 1), batch.y)  # (K, B)
        bound = (log_q.exp() * (each.T + self.prior * (log_q + math.log(self.environments)))).sum(1).mean()
        q = log_q.detach().exp()
        losses = self.losses(self.net(batch, copies)[0], batch.y)
        means = (q * losses[:, None]).sum(0) / q.sum(0).clamp(min=1e-6)
        variance = means.var(unbiased=False)
        return {"loss": bound + losses.mean() + self.penalty * variance, "variance": variance}
