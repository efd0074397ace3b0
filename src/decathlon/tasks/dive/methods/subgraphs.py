"""What the methods that split a graph into a causal and a spurious part share."""

import torch
from torch import Tensor

from decathlon.errors import ConfigError
from decathlon.graphs.batches import FeatureBatch


def check_share(method: str, name: str, value: float) -> None:
    """Whether a value is a share in (0, 1).

    Raises:
        ConfigError: in one line, no.
    """
    if not 0 < value < 1:
        raise ConfigError(f"method={method}: {name}={value} must be a share, above 0 and below 1")


def top_edges(score: Tensor, batch: FeatureBatch, ratio: float) -> Tensor:
    """The ceil(ratio E_b) edges with the highest scores (E,) of each graph b, as a bool mask (E,).

    The benchmark's graphs count both directions of an edge, whose scores may differ.
    """
    graph = batch.graph[batch.owner]
    order = score.argsort(descending=True, stable=True)
    order = order[graph[order].argsort(stable=True)]  # by graph, in each by falling score
    starts = batch.edge_starts[batch.node_starts]
    rank = torch.arange(len(score), device=score.device) - starts[graph]  # edges of a graph lie together
    count = (ratio * starts.diff()).ceil()
    keep = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    keep[order] = rank < count[graph]
    return keep


def touched(keep: Tensor, batch: FeatureBatch) -> Tensor:
    """Whether a kept edge begins or ends at each node: (N,) bool."""
    found = torch.zeros(len(batch.edge_starts) - 1, dtype=torch.bool, device=keep.device)
    found[batch.neighbours[keep]] = True
    found[batch.owner[keep]] = True
    return found


def mean_of(vectors: Tensor, nodes: Tensor, batch: FeatureBatch) -> Tensor:
    """The mean over those nodes of each graph that are in it: (N, D), weights (N,) to (B, D); 0 where none is."""
    weight = nodes.to(vectors.dtype)
    total = vectors.new_zeros(len(batch), vectors.shape[1]).index_add(0, batch.graph, vectors * weight[:, None])
    count = weight.new_zeros(len(batch)).index_add(0, batch.graph, weight)
    return total / count.clamp(min=1e-6)[:, None]
