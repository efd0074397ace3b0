"""Causality-inspired invariant graph learning (CIGA; Chen et al., NeurIPS 2022)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Linear
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Method, Step
from decathlon.tasks.dive.methods.subgraphs import check_share, top_edges


class Ciga(Method):
    """The top share of edges is the invariant part; its vectors are pulled together within a class.

    Loss: CE(invariant) + contrast * supervised contrastive loss (cosine, temperature 1) of the sum-pooled invariant
    parts; version 2 adds the loss of the other part where that exceeds the invariant one's. Classification only.

    Args:
        ratio: share of the edges that is invariant. contrast: 2 on Motif, else 1. version: 1 or 2.
    """

    has_masks = True

    def __init__(
        self, backbone: Backbone, regression: str = "l1", ratio: float = 0.25, contrast: float = 2.0, version: int = 1
    ) -> None:
        super().__init__(backbone, regression)
        check_share("ciga", "ratio", ratio)
        if version not in (1, 2):
            raise ConfigError(f"method=ciga: version={version} is unknown; choose 1, 2")
        if self.task == "regression":
            raise ConfigError("method=ciga contrasts classes; this dataset is a regression")
        self.ratio, self.contrast, self.version = ratio, contrast, version
        self.scorer = backbone.resized(layers=2, dropout=0.0).extractor()
        self.net = backbone.classifier()
        self.spurious_head = Linear(1, backbone.width, backbone.spec.outputs) if version == 2 else None

    def _split(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        score = self.scorer(batch, self.copies(batch))[0]
        return score, top_edges(score.detach(), batch, self.ratio)

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        score, keep = self._split(batch)
        copies = self.copies(batch)
        nodes = self.net.encoder(batch, copies, (score.sigmoid() * keep)[None])
        losses = self.losses(self.net.head(copies.mean_nodes(nodes))[0], batch.y)
        contrast = contrastive(copies.sum_nodes(nodes)[0], batch.y[:, 0])
        loss = losses.mean() + self.contrast * contrast
        if self.spurious_head is not None:
            other = self.net.encoder(batch, copies, ((-score).sigmoid() * ~keep)[None])
            spurious = self.losses(self.spurious_head(copies.mean_nodes(other))[0], batch.y)
            loss = loss + (spurious * (spurious > losses).detach()).mean()
        return {"loss": loss, "contrast": contrast}

    def predict(self, batch: FeatureBatch) -> Tensor:
        score, keep = self._split(batch)
        return self.net(batch, self.copies(batch), (score.sigmoid() * keep)[None])

    def masks(self, batch: FeatureBatch) -> Tensor:
        return self._split(batch)[1].to(torch.float32)[None]


def contrastive(vectors: Tensor, y: Tensor, temperature: float = 1.0) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020) of vectors (B, D): those of one label y (B,) are positives."""
    alike = normalize(vectors, dim=1)
    similarity = alike @ alike.T / temperature
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    log_share = similarity - similarity.masked_fill(itself, float("-inf")).logsumexp(1, keepdim=True)
    positive = (y[:, None] == y) & ~itself
    per_anchor = -(log_share.masked_fill(~positive, 0.0)).sum(1) / positive.sum(1).clamp(min=1)
    anchors = positive.any(1)
    return (per_anchor * anchors).sum() / anchors.sum().clamp(min=1) if len(y) > 1 else vectors.sum() * 0
