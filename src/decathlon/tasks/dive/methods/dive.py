"""DIVE with stacked members: one batched product for all, equal to m separate ones."""

import torch
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Copies
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.dive import Masking, Output, check_members
from decathlon.tasks.dive.masks import Pairs
from decathlon.tasks.dive.methods.base import Losses, Method, Step
from decathlon.tasks.dive.overlap import independent_jaccard


class DiveMethod(Method):
    """m members with an extractor and a classifier each, no weight is shared.

    Args:
        backbone, regression: see ``Method``. members: m. diversity: lambda.
        sampler, ste, tau, jaccard, eval_mask: see ``dive.Masking``.
        mask_layers, mask_dropout: of the extractors' encoders; by default the backbone's.
        ramp: ours: lambda grows linearly from 0 over this share of the training; 0, the paper's, is the whole at once.
        sparsity: ours: weight of the members' mean keep rate in the loss; 0 in the paper.

    Raises:
        ValueError: a number is out of range, or an unknown choice.
    """

    has_masks = True

    def __init__(
        self,
        backbone: Backbone,
        regression: str = "l1",
        members: int = 2,
        diversity: float = 0.5,
        sampler: str = "bernoulli",
        ste: str = "p",
        tau: float = 1.0,
        jaccard: str = "batch",
        eval_mask: str = "soft",
        mask_layers: int | None = None,
        mask_dropout: float | None = None,
        ramp: float = 0.0,
        sparsity: float = 0.0,
    ) -> None:
        check_members(members, diversity)
        super().__init__(backbone, regression)
        if not 0 <= ramp <= 1:
            raise ValueError(f"ramp={ramp} must be a share of the training, from 0 to 1")
        self.masking = Masking(sampler, ste, float(tau), jaccard, eval_mask)
        self.members, self.diversity, self.ramp, self.sparsity = int(members), float(diversity), ramp, sparsity
        self.extractor = backbone.resized(mask_layers, mask_dropout).extractor(self.members)
        self.classifier = backbone.classifier(self.members)

    def logits(self, batch: FeatureBatch, copies: Copies) -> tuple[Tensor, Pairs]:
        """Symmetric logits (m, E), and which edges are one."""
        pairs = Pairs.of_reverse(copies.pair) if batch.symmetric else Pairs.of(batch.edge_index)
        return pairs.average(self.extractor(batch, copies)), pairs

    def forward(self, batch: FeatureBatch) -> Output:
        """All members on a batch: masks are drawn in training, and as ``eval_mask`` says otherwise."""
        copies = self.copies(batch)
        logits, pairs = self.logits(batch, copies)
        masks = self.masking.draw(logits, pairs) if self.training else self.masking.evaluate(logits, pairs)
        overlap = self.masking.overlap(masks, lambda: batch.graph[batch.owner])
        return Output(self.classifier(batch, copies, masks), masks, logits, overlap, self.diversity)

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        out = self(batch)
        members = self.losses(out.predictions, batch.y).mean(1)
        loss = members.mean()
        if self.members > 1 and self.diversity:
            share = min(1.0, step.progress / self.ramp) if self.ramp else 1.0
            loss = loss + self.diversity * share * out.overlap
        if self.sparsity:
            loss = loss + self.sparsity * out.masks.mean()
        with torch.no_grad():
            rates = out.masks.mean(1) if out.masks.shape[1] else out.masks.new_zeros(self.members)
            logs = {"jaccard": out.overlap.detach(), "jaccard_independent": independent_jaccard(rates)}
            logs |= {f"keep_rate_{k}": rate for k, rate in enumerate(rates)}
            logs |= {f"loss_{k}": member for k, member in enumerate(members.detach())}
        return {"loss": loss, **logs}

    def predict(self, batch: FeatureBatch) -> Tensor:
        return self(batch).predictions

    def masks(self, batch: FeatureBatch) -> Tensor:
        return self.logits(batch, self.copies(batch))[0].sigmoid()

    def predict_with_masks(self, batch: FeatureBatch) -> tuple[Tensor, Tensor | None]:
        out = self(batch)
        return out.predictions, out.logits.sigmoid()
