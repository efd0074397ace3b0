"""Causal attention learning (CAL; Sui et al., KDD 2022; reconstructed)."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Linear
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.masks import Pairs
from decathlon.tasks.dive.methods.base import Losses, Method, Step


class Cal(Method):
    """Softmax attention splits nodes and edges into a causal and a trivial part with a branch each.

    Loss: CE(causal) + uniform * KL(uniform || trivial) + mixed * CE(causal + trivial of a permuted graph). Of one logit
    the trivial branch is pulled to 0, of a regression it is left out.

    Args:
        uniform, mixed: weights of the two terms.
    """

    has_masks = True

    def __init__(self, backbone: Backbone, regression: str = "l1", uniform: float = 0.5, mixed: float = 0.5) -> None:
        super().__init__(backbone, regression)
        self.uniform, self.mixed = uniform, mixed
        self.attention = backbone.encoder()
        self.edge = backbone.extractor(own_encoder=False)
        self.node = Linear(1, backbone.width, 2)
        self.causal, self.trivial = backbone.encoder(), backbone.encoder()
        self.causal_head, self.trivial_head, self.mixed_head = (
            Linear(1, backbone.width, backbone.spec.outputs) for _ in range(3)
        )

    def _edges(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        """How causal each edge is (1, E), and the node vectors that said so (1, N, d)."""
        copies = self.copies(batch)
        nodes = self.attention(batch, copies)
        pairs = Pairs.of_reverse(copies.pair) if batch.symmetric else Pairs.of(batch.edge_index)
        return pairs.average(self.edge(batch, copies, nodes)).sigmoid(), nodes

    def _vectors(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        copies = self.copies(batch)
        edges, nodes = self._edges(batch)
        share = self.node(nodes).softmax(2)
        causal = copies.mean_nodes(share[..., :1] * self.causal(batch, copies, edges))
        trivial = copies.mean_nodes(share[..., 1:] * self.trivial(batch, copies, 1 - edges))
        return causal, trivial

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        causal, trivial = self._vectors(batch)
        loss = self.losses(self.causal_head(causal)[0], batch.y).mean()
        flat = self._distance_to_uniform(self.trivial_head(trivial)[0])
        order = torch.randperm(len(batch), device=causal.device)
        mixed = self.losses(self.mixed_head(causal + trivial[:, order])[0], batch.y).mean()
        return {"loss": loss + self.uniform * flat + self.mixed * mixed, "uniform": flat, "mixed": mixed}

    def _distance_to_uniform(self, logits: Tensor) -> Tensor:
        if self.task == "multiclass":
            return -(log_softmax(logits, 1).mean() + torch.log(torch.tensor(float(logits.shape[1]))))
        if self.task == "binary":
            return (torch.nn.functional.softplus(logits) - logits / 2).mean() - torch.log(torch.tensor(2.0))
        return logits.sum() * 0

    def predict(self, batch: FeatureBatch) -> Tensor:
        return self.causal_head(self._vectors(batch)[0])

    def masks(self, batch: FeatureBatch) -> Tensor:
        return self._edges(batch)[0]
