"""GRCN (Wei et al., ACM MM 2020): attention inside each modality says which interactions the id network trusts."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from decathlon.recommendation.propagation import edges
from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Preferences, Vectors, table


class Routed(NamedTuple):
    """One modality's vectors of users and items, and the attention on each directed edge (2n,)."""

    part: Vectors
    attention: Tensor


class GRCN(Backbone):
    """Users and items [id | x_1 | ...]; D = dim * (1 + number of modalities).

    Args:
        routing: how often a user's preference is drawn towards the items that it attends to.
        layers: of the id network.
    """

    target: Tensor
    source: Tensor
    degree: Tensor

    def __init__(
        self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64, routing: int = 3, layers: int = 2
    ) -> None:
        super().__init__(graph, features, dim)
        self.routing, self.layers = routing, layers
        nodes = graph.users + graph.items
        self.ids = table(nodes, dim)
        self.preference = nn.ModuleDict({name: Preferences(graph.users, dim) for name in features})
        self.project = nn.ModuleDict({name: nn.Linear(values.shape[1], dim) for name, values in features.items()})
        self.confidence = nn.ModuleDict({name: Confidence(nodes) for name in features})
        target, source = edges(graph.user, graph.item, graph.users)
        self.register_buffer("target", target, persistent=False)
        self.register_buffer("source", source, persistent=False)
        self.register_buffer("degree", torch.bincount(target, minlength=nodes).float(), persistent=False)

    def stream(self, name: str, factual: bool) -> Routed:
        if not factual:
            return self._uniform(name)
        users, pairs = self.graph.users, len(self.graph.user)
        preference = functional.normalize(self.preference[name](True))
        item = functional.normalize(functional.leaky_relu(self.project[name](self.features[name](True))))
        user_of, item_of = self.target[:pairs], self.source[:pairs] - users  # the first half: messages to users
        for _ in range(self.routing):
            heard, _ = attend(preference, item, user_of, item_of)
            preference = functional.normalize(preference + heard)
        x = torch.cat([preference, item])
        heard, attention = attend(x, x, self.target, self.source)
        nodes = x + heard
        return Routed((nodes[:users], nodes[users:]), attention)

    def _uniform(self, name: str) -> Routed:
        """The counterfactual stream, without a pass over edges.

        All users are alike and all items are, so a target's attention is the same on each of its edges whatever the
        weights (its gradient is 0), and what it hears is the one vector that all its sources have.
        """
        preference = functional.normalize(self.preference[name](False))
        item = functional.normalize(functional.leaky_relu(self.project[name](self.features[name](False))))
        routed = alone = preference  # of users with interactions, and of users without any
        for _ in range(self.routing):
            routed, alone = functional.normalize(routed + item), functional.normalize(alone)
        linked = (self.degree > 0)[:, None]
        users, items = linked.split([self.graph.users, self.graph.items])
        part = torch.where(users, routed + item, alone), torch.where(items, item + routed, item)
        return Routed(part, 1 / self.degree[self.target])

    def fuse(self, base: None, streams: Mapping[str, Routed]) -> list[Vectors]:
        trusted = [stream.attention * self.confidence[name].weight[self.source] for name, stream in streams.items()]  # type: ignore[index]
        weight = torch.stack(trusted).amax(0).relu()
        x = functional.normalize(self.ids)
        total = x
        for _ in range(self.layers):
            x = torch.zeros_like(x).index_add(0, self.target, weight[:, None] * x.index_select(0, self.source))
            total = total + x
        users = self.graph.users
        return [(total[:users], total[users:]), *(stream.part for stream in streams.values())]


class Confidence(nn.Module):
    """How far each node's messages of one modality are trusted: (nodes,), about 1 at first."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(nodes, 1))[:, 0] + 1)


def attend(targets: Tensor, sources: Tensor, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """What each target hears, (T, dim), and the attention of each edge: a softmax of inner products over its edges.

    Args:
        targets, sources: (T, dim), (S, dim) with rows of length 1: so no exponential overflows.
        target, source: (E,) int64.
    """
    spoken = sources.index_select(0, source)
    score = (targets.index_select(0, target) * spoken).sum(1).exp()
    total = torch.zeros(len(targets), device=score.device, dtype=score.dtype).index_add(0, target, score)
    attention = score / total[target]
    heard = torch.zeros_like(targets).index_add(0, target, attention[:, None] * spoken)
    return heard, attention
