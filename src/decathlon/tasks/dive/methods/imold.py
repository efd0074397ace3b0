"""Invariant molecular representations in a discrete space (iMoLD; Zhuang et al., NeurIPS 2023; reconstructed)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Linear
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Method, Step
from decathlon.tasks.dive.methods.subgraphs import check_share


class Imold(Method):
    """Node vectors plus their quantised ones; scores S split them into an invariant and a spurious part.

    Loss: the task's on the invariant part, plus ``invariance`` times 1 - cosine between the invariant vector and the
    one that is predicted of it beside a permuted spurious vector, plus |mean(S) - gamma|, plus the quantiser's
    commitment.

    Args:
        codes: size of the codebook. gamma: share that is invariant. commitment, invariance, balance: weights.
    """

    def __init__(
        self,
        backbone: Backbone,
        regression: str = "l1",
        codes: int = 256,
        gamma: float = 0.7,
        commitment: float = 0.1,
        invariance: float = 0.01,
        balance: float = 0.5,
    ) -> None:
        super().__init__(backbone, regression)
        check_share("imold", "gamma", gamma)
        if codes < 2:
            raise ConfigError(f"method=imold: codes={codes} must be at least 2")
        self.gamma, self.commitment, self.invariance, self.balance = gamma, commitment, invariance, balance
        width = backbone.width
        self.features, self.rater = backbone.encoder(), backbone.encoder()
        self.rate = Linear(1, width, width)
        self.codebook = nn.Parameter(torch.randn(codes, width) / width**0.5)
        self.predictor = nn.Sequential(Linear(1, 2 * width, width), nn.ReLU(), Linear(1, width, width))
        self.head = Linear(1, width, backbone.spec.outputs)

    def _quantised(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes with a straight-through gradient, and the loss that keeps vectors and codes together."""
        nearest = torch.cdist(nodes[0].detach(), self.codebook.detach()).argmin(1)
        code = self.codebook[nearest][None]
        together = (code - nodes.detach()).square().mean() + self.commitment * (code.detach() - nodes).square().mean()
        return nodes + (code - nodes).detach(), together

    def _split(self, batch: FeatureBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        copies = self.copies(batch)
        nodes = self.features(batch, copies)
        code, together = self._quantised(nodes)
        score = self.rate(self.rater(batch, copies)).sigmoid()
        nodes = nodes + code
        return copies.mean_nodes(score * nodes), copies.mean_nodes((1 - score) * nodes), score, together

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        invariant, spurious, score, together = self._split(batch)
        losses = self.losses(self.head(invariant)[0], batch.y)
        order = torch.randperm(len(batch), device=invariant.device)
        predicted = self.predictor(torch.cat([invariant, spurious[:, order]], 2))
        apart = 1 - cosine_similarity(predicted, invariant.detach(), dim=2).mean()
        balance = (score.mean() - self.gamma).abs()
        loss = losses.mean() + self.invariance * apart + self.balance * balance + self.commitment * together
        return {"loss": loss, "apart": apart, "score": score.mean()}

    def predict(self, batch: FeatureBatch) -> Tensor:
        return self.head(self._split(batch)[0])
