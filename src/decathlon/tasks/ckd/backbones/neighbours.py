"""Item-item graphs from features: each item's nearest neighbours by cosine."""

import torch
from torch import Tensor
from torch.nn import functional

from decathlon.recommendation.propagation import Adjacency

CELLS = 2**24


@torch.no_grad()
def nearest(features: Tensor, k: int) -> Tensor:
    """(n, k) int64: the rows of largest cosine with each row of (n, d), itself among them; k is at most n."""
    unit = functional.normalize(features.float())
    k = min(k, len(unit))
    chunk = max(1, CELLS // len(unit))
    return torch.cat([(unit[begin : begin + chunk] @ unit.T).topk(k).indices for begin in range(0, len(unit), chunk)])


def cosines(features: Tensor, neighbours: Tensor) -> Tensor:
    """(n, k): cosine of each row and its ``neighbours``, with gradients."""
    unit = functional.normalize(features)
    return (unit[:, None] * unit[neighbours]).sum(-1)


def symmetric_weights(neighbours: Tensor, values: Tensor) -> Tensor:
    """(n, k): the entries of D^-1/2 A D^-1/2, with A's entries ``values`` and D its sums of rows, as published."""
    root = (values.sum(1) + 1e-7).clamp(min=1e-7).rsqrt()
    return values * root[:, None] * root[neighbours]


def fixed_graph(features: Tensor, k: int, weighted: bool) -> Adjacency:
    """The normalised graph of raw features: entries are cosines, or 1 where ``weighted`` is false."""
    places = nearest(features, k)
    values = cosines(features.float(), places) if weighted else torch.ones(places.shape)
    target = torch.arange(len(places)).repeat_interleave(places.shape[1])
    index = torch.stack([target, places.reshape(-1).cpu()])
    return Adjacency(index, len(places), symmetric_weights(places, values).reshape(-1).cpu(), norm="none")
