"""Metrics of every member: of predictions, and of masks against the true motif."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.sums import sum_segments
from decathlon.tasks.dive.overlap import independent_jaccard

HIGHER = {"accuracy": True, "roc_auc": True, "mae": False}


def measure(metric: str, predictions: Tensor, y: Tensor) -> Tensor:
    """The metric of each member: (m, n, C) predictions and (n, T) labels to (m,) float64.

    ``accuracy``: of the largest of several, or the sign of one logit. ``roc_auc``: area under the curve over all
    n, mean over the labels that have both classes, NaN if none has. ``mae``: mean absolute error.
    """
    if metric == "accuracy":
        if predictions.shape[-1] > 1:
            return (predictions.argmax(-1) == y[:, 0]).double().mean(1)
        return ((predictions[..., 0] > 0).to(y.dtype) == y[:, 0]).double().mean(1)
    if metric == "mae":
        return (predictions.double() - y).abs().nanmean(1).nanmean(1)
    columns = [_roc_auc(predictions[..., i], y[:, i]) for i in range(y.shape[1])]
    return torch.stack(columns, 1).nanmean(1)


def _roc_auc(scores: Tensor, y: Tensor) -> Tensor:
    from sklearn.metrics import roc_auc_score

    known = ~y.isnan()
    truth = y[known].cpu().numpy()
    if not 0 < truth.sum() < len(truth):
        return torch.full((len(scores),), float("nan"), dtype=torch.float64)
    areas = [roc_auc_score(truth, one[known].double().cpu().numpy()) for one in scores]
    return torch.tensor(areas, dtype=torch.float64)


@dataclass
class MaskSums:
    """What has been seen of masks {p > 0.5}: of all edges, and where the truth is known of every graph."""

    kept: list[Tensor] = field(default_factory=list)
    both: list[Tensor] = field(default_factory=list)
    edges: int = 0
    quality: list[Tensor] = field(default_factory=list)

    def add(self, probability: Tensor, batch: FeatureBatch) -> None:
        """A batch's probabilities (m, E)."""
        hard = (probability > 0.5).to(probability.dtype)
        self.kept.append(hard.sum(1).double())
        self.both.append((hard @ hard.T).double())
        self.edges += hard.shape[1]
        if "edge_gt" in batch.more:
            self.quality.append(mask_quality(hard, batch.more["edge_gt"], batch))

    def quality_of_graphs(self) -> Tensor | None:
        """(3, m, n) precision, recall and F1 of every graph."""
        return torch.cat(self.quality, 2) if self.quality else None

    def summary(self) -> dict[str, Tensor]:
        """``keep_rate`` (m,), ``jaccard``, ``jaccard_independent``; ``precision``, ``recall``, ``f1`` (m,) if known."""
        kept, both = torch.stack(self.kept).sum(0), torch.stack(self.both).sum(0)
        rate = kept / max(self.edges, 1)
        found = {"keep_rate": rate}
        if len(kept) > 1:
            i, j = torch.triu_indices(len(kept), len(kept), 1)
            union = kept[i] + kept[j] - both[i, j]
            found["jaccard"] = (both[i, j] / union.clamp(min=1)).mean()
            found["jaccard_independent"] = independent_jaccard(rate)
        quality = self.quality_of_graphs()
        if quality is not None:
            found |= dict(zip(("precision", "recall", "f1"), quality.double().mean(2), strict=True))
        return found


def mask_quality(hard: Tensor, truth: Tensor, batch: FeatureBatch) -> Tensor:
    """Precision, recall and F1 of masks (m, E) of 0 and 1 against true edges (E,), graph by graph: (3, m, B).

    0 where a mask is empty. Both directions of an edge count, which changes no ratio.
    """
    starts = batch.edge_starts[batch.node_starts]
    true = truth.to(hard.dtype)
    hit, kept = sum_segments((hard * true).T.contiguous(), starts).T, sum_segments(hard.T.contiguous(), starts).T
    there = sum_segments(true[:, None], starts).T.expand_as(hit)
    one = torch.ones_like(hit)
    precision, recall = hit / torch.maximum(kept, one), hit / torch.maximum(there, one)
    return torch.stack([precision, recall, 2 * hit / torch.maximum(kept + there, one)])
