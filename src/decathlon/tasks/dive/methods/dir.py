"""Discovering invariant rationales (DIR; Wu et al., ICLR 2022)."""

import torch
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Linear
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Method, Step
from decathlon.tasks.dive.methods.subgraphs import check_share, mean_of, top_edges, touched


class Dir(Method):
    """The top share of edges is the causal part, the rest the confounder; one more layer of convolution on each.

    Loss: CE(causal) + CE(confounder) + a(t) (mean_j CE_j + Var_j CE_j), CE_j of the causal logits times the sigmoid of
    the confounder's logits of graph j, without gradient; a(t) = c t^1.6 with the epoch t.

    Args:
        ratio: share of the edges that is causal: 0.25 on Motif, 0.8 on molecules. c: of a(t).
    """

    has_masks = True

    def __init__(self, backbone: Backbone, regression: str = "l1", ratio: float = 0.25, c: float = 1e-2) -> None:
        super().__init__(backbone, regression)
        check_share("dir", "ratio", ratio)
        self.ratio, self.c = ratio, c
        self.scorer = backbone.resized(layers=2, dropout=0.0).extractor()
        self.features = backbone.encoder()
        self.causal_head, self.confounder_head = (Linear(1, backbone.width, backbone.spec.outputs) for _ in range(2))

    def _split(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        score = self.scorer(batch, self.copies(batch))[0]
        return score, top_edges(score.detach(), batch, self.ratio)

    def _vectors(self, batch: FeatureBatch, weight: Tensor, keep: Tensor) -> Tensor:
        """(1, B, d) of the graph with these edges; nodes that lost all edges are left out."""
        nodes = self.features(batch, self.copies(batch), (weight * keep)[None])[0]
        return mean_of(nodes, touched(keep, batch), batch)[None]

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        score, keep = self._split(batch)
        causal = self.causal_head(self._vectors(batch, score.sigmoid(), keep))[0]
        confounder = self.confounder_head(self._vectors(batch, (-score).sigmoid(), ~keep).detach())[0]
        combined = causal[None] * confounder.detach().sigmoid()[:, None]  # (j, i, C)
        each = self.losses(combined, batch.y).mean(1)
        strength = self.c * step.epoch**1.6
        own = self.losses(causal, batch.y).mean() + self.losses(confounder, batch.y).mean()
        variance = each.var(unbiased=False)
        return {"loss": own + strength * (each.mean() + variance), "variance": variance}

    def predict(self, batch: FeatureBatch) -> Tensor:
        score, keep = self._split(batch)
        return self.causal_head(self._vectors(batch, score.sigmoid(), keep))

    def masks(self, batch: FeatureBatch) -> Tensor:
        return self._split(batch)[1].to(torch.float32)[None]
