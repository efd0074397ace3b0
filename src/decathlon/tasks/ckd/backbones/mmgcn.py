"""MMGCN (Wei et al., ACM MM 2019) in the small form of the published code: a graph network for each modality."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from decathlon.recommendation.propagation import Adjacency, edges
from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Preferences, Vectors, table


class Layer(nn.Module):
    """x <- act(act(A (x C)) G + act(x L) + E), act being a leaky ReLU of slope 0.01."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolve, self.own, self.gather = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, ids: Tensor, adjacency: nn.Module) -> Tensor:
        """Node vectors (N, dim); ``ids`` are the id vectors, shared by the modalities."""
        neighbours = functional.leaky_relu(adjacency(self.convolve(x)))
        own = functional.leaky_relu(self.own(x)) + ids
        return functional.leaky_relu(self.gather(neighbours) + own)


class MMGCN(Backbone):
    """The mean over modalities of what ``layers`` layers make of [P_m; F_m W_m + b_m] on D^-1 (A + I).

    Args:
        layers: of each modality's network.
        frozen_preference: the users' preferences are never trained, as in the published code.
    """

    def __init__(
        self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64, layers: int = 3,
        frozen_preference: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(graph, features, dim)
        if layers < 1:
            raise ValueError(f"layers={layers} must be at least 1")
        nodes = graph.users + graph.items
        self.adjacency = Adjacency(edges(graph.user, graph.item, graph.users), nodes, norm="rows", loops=True)
        self.ids = table(nodes, dim)
        self.preference = nn.ModuleDict(
            {name: Preferences(graph.users, dim, frozen_preference) for name in self.modalities}
        )
        self.project = nn.ModuleDict({name: nn.Linear(values.shape[1], dim) for name, values in features.items()})
        self.layers = nn.ModuleDict({name: nn.ModuleList(Layer(dim) for _ in range(layers)) for name in features})

    def stream(self, name: str, factual: bool) -> Tensor:
        user, item = self.preference[name](factual), self.project[name](self.features[name](factual))
        x = torch.cat([user.expand(self.graph.users, -1), item.expand(self.graph.items, -1)])
        x = functional.normalize(x)
        for layer in self.layers[name].children():
            x = layer(x, self.ids, self.adjacency)
        return x

    def fuse(self, base: None, streams: Mapping[str, Tensor]) -> list[Vectors]:
        mean = torch.stack(list(streams.values())).mean(0)
        return [(mean[: self.graph.users], mean[self.graph.users :])]
