"""EgoGCN (ACM MM 2022): a modality's message on an edge is modulated by the other modalities' on it (reconstructed)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from decathlon.recommendation.propagation import Adjacency, edges, propagate
from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Preferences, Vectors, table


class EgoGCN(Backbone):
    """Early fusion: in every layer a modality hears, element by element, the largest of all modalities' messages (hard
    fusion), or their mean weighted by its attention to them (soft fusion). Users and items are [id | x_1 | ...].

    The paper's details could not be checked: this follows the idea of edge-wise modulation as it is cited elsewhere.

    Args:
        layers: of the network. fusion: ``hard`` or ``soft``.
    """

    def __init__(
        self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64, layers: int = 2, fusion: str = "hard"
    ) -> None:
        super().__init__(graph, features, dim)
        if fusion not in ("hard", "soft"):
            raise ValueError(f"fusion={fusion} is unknown; choose hard or soft")
        self.layers, self.fusion = layers, fusion
        nodes = graph.users + graph.items
        self.adjacency = Adjacency(edges(graph.user, graph.item, graph.users), nodes)
        self.ids = table(nodes, dim)
        self.preference = nn.ModuleDict({name: Preferences(graph.users, dim) for name in features})
        self.project = nn.ModuleDict({name: nn.Linear(values.shape[1], dim) for name, values in features.items()})

    def stream(self, name: str, factual: bool) -> Tensor:
        """Node vectors (N, dim) before any message."""
        user, item = self.preference[name](factual), self.project[name](self.features[name](factual))
        x = torch.cat([user.expand(self.graph.users, -1), item.expand(self.graph.items, -1)])
        return functional.normalize(x)

    def base(self) -> Vectors:
        mean = propagate(self.adjacency, self.ids, self.layers)
        return mean[: self.graph.users], mean[self.graph.users :]

    def fuse(self, base: Vectors, streams: Mapping[str, Tensor]) -> list[Vectors]:
        own = torch.stack(list(streams.values()))  # (M, N, dim)
        total, users = own, self.graph.users
        for _ in range(self.layers):
            # All messages of a source to its targets are equal, so that they are fused at the source.
            if self.fusion == "hard":
                fused = own.amax(0).expand_as(own)
            else:
                attention = torch.einsum("mnd,knd->nmk", own, own).softmax(-1)
                fused = torch.einsum("nmk,knd->mnd", attention, own)
            own = torch.stack([self.adjacency(message) for message in fused])
            total = total + own
        return [base, *((nodes[:users], nodes[users:]) for nodes in total / (self.layers + 1))]
