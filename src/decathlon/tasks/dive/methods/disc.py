"""Debiasing by disentangled causal substructure (DisC; Fan et al., NeurIPS 2022; reconstructed)."""

import torch
from torch import Tensor

from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Linear
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.masks import Pairs
from decathlon.tasks.dive.methods.base import Losses, Method, Step
from decathlon.tasks.dive.methods.subgraphs import check_share


class DisC(Method):
    """An edge mask c and 1 - c feed a causal and a bias branch.

    The bias branch is trained with the generalised cross-entropy (1 - p_y^q) / q, which follows what is easy; the
    causal one with a cross-entropy whose samples count CE_b / (CE_b + CE_c). Classification only. After ``swap_after``
    of the training, bias vectors are also swapped inside the batch. Each head reads both vectors, the other one's
    without gradient.

    Args:
        q: of the generalised cross-entropy. swap_after: share of the training. swap: weight of the swapped loss.
    """

    has_masks = True

    def __init__(
        self, backbone: Backbone, regression: str = "l1", q: float = 0.7, swap_after: float = 0.25, swap: float = 1.0
    ) -> None:
        super().__init__(backbone, regression)
        if self.task == "regression":
            raise ConfigError("method=disc needs class probabilities; this dataset is a regression")
        check_share("disc", "q", q)
        self.q, self.swap_after, self.swap = q, swap_after, swap
        self.extractor = backbone.extractor()
        self.causal, self.bias = backbone.encoder(), backbone.encoder()
        self.causal_head, self.bias_head = (Linear(1, 2 * backbone.width, backbone.spec.outputs) for _ in range(2))

    def masks(self, batch: FeatureBatch) -> Tensor:
        copies = self.copies(batch)
        pairs = Pairs.of_reverse(copies.pair) if batch.symmetric else Pairs.of(batch.edge_index)
        return pairs.average(self.extractor(batch, copies)).sigmoid()

    def _vectors(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        copies, mask = self.copies(batch), self.masks(batch)
        causal = copies.mean_nodes(self.causal(batch, copies, mask))
        return causal, copies.mean_nodes(self.bias(batch, copies, 1 - mask))

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        causal, bias = self._vectors(batch)
        by_cause = self.losses(self.causal_head(torch.cat([causal, bias.detach()], 2))[0], batch.y)
        by_bias = self.losses(self.bias_head(torch.cat([causal.detach(), bias], 2))[0], batch.y)
        weight = (by_bias / (by_bias + by_cause).clamp(min=1e-8)).detach()
        loss = (weight * by_cause).mean() + self._generalised(by_bias).mean()
        if step.progress >= self.swap_after:
            order = torch.randperm(len(batch), device=causal.device)
            mixed = self.losses(self.causal_head(torch.cat([causal, bias[:, order].detach()], 2))[0], batch.y)
            swapped = self.losses(self.bias_head(torch.cat([causal.detach(), bias[:, order]], 2))[0], batch.y[order])
            loss = loss + self.swap * ((weight * mixed).mean() + self._generalised(swapped).mean())
        return {"loss": loss, "weight": weight.mean()}

    def _generalised(self, cross_entropy: Tensor) -> Tensor:
        """(1 - p_y^q) / q from -log p_y."""
        return (1 - (-self.q * cross_entropy).exp()) / self.q

    def predict(self, batch: FeatureBatch) -> Tensor:
        causal, bias = self._vectors(batch)
        return self.causal_head(torch.cat([causal, bias], 2))
