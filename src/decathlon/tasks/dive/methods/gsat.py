"""Graph stochastic attention (GSAT; Miao et al., ICML 2022)."""

import torch
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.masks import Pairs
from decathlon.tasks.dive.methods.base import Losses, Method, Step
from decathlon.tasks.dive.methods.subgraphs import check_share


class Gsat(Method):
    """One network is extractor and classifier; edges have soft random weights that are kept near r.

    att = sigmoid(l + logistic noise) in training, sigmoid(l) otherwise. Loss: the mean loss plus ``penalty`` times the
    mean of KL(Bern(att) || Bern(r)); r falls from 0.9 by 0.1 every ``decay_every`` epochs down to ``final_r``.

    Args:
        final_r: 0.5 or 0.7. decay_every: 10 or 20. penalty: of the divergence.
        symmetric: one weight for both directions of an edge. The benchmark averages a weight with itself instead, so
            its published numbers are those of ``false``.
    """

    has_masks = True

    def __init__(
        self,
        backbone: Backbone,
        regression: str = "l1",
        final_r: float = 0.5,
        decay_every: int = 10,
        penalty: float = 1.0,
        symmetric: bool = True,
    ) -> None:
        super().__init__(backbone, regression)
        check_share("gsat", "final_r", final_r)
        self.final_r, self.decay_every, self.penalty, self.symmetric = final_r, max(1, decay_every), penalty, symmetric
        self.net = backbone.classifier()
        self.extractor = backbone.extractor(own_encoder=False)

    def _logits(self, batch: FeatureBatch) -> tuple[Tensor, Pairs | None]:
        copies = self.copies(batch)
        logits = self.extractor(batch, copies, self.net.encoder(batch, copies))
        if not self.symmetric:
            return logits, None
        pairs = Pairs.of_reverse(copies.pair) if batch.symmetric else Pairs.of(batch.edge_index)
        return pairs.average(logits), pairs

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        logits, pairs = self._logits(batch)
        if pairs is None:
            uniform = torch.rand_like(logits).clamp(1e-10, 1 - 1e-7)
        else:
            uniform = pairs.uniform(1, logits)
        attention = (logits + uniform.log() - torch.log1p(-uniform)).sigmoid()
        r = max(self.final_r, 0.9 - 0.1 * (step.epoch // self.decay_every))
        a = attention.clamp(1e-6, 1 - 1e-6)
        divergence = (a * (a / r).log() + (1 - a) * ((1 - a) / (1 - r)).log()).sum() / max(a.numel(), 1)
        losses = self.losses(self.net(batch, self.copies(batch), attention)[0], batch.y)
        return {"loss": losses.mean() + self.penalty * divergence, "divergence": divergence}

    def predict(self, batch: FeatureBatch) -> Tensor:
        return self.net(batch, self.copies(batch), self.masks(batch))

    def masks(self, batch: FeatureBatch) -> Tensor:
        return self._logits(batch)[0].sigmoid()
