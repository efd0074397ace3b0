"""FREEDOM (Zhou and Shen, ACM MM 2023): a frozen item-item graph, and a user-item graph with edges left out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from decathlon.randomness import generator
from decathlon.recommendation.propagation import Adjacency, edges, propagate
from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Vectors, table
from decathlon.tasks.ckd.backbones.neighbours import fixed_graph

if TYPE_CHECKING:
    from decathlon.tasks.ckd.training import Step


class FREEDOM(Backbone):
    """LightGCN on a thinned graph, plus to the items what one step on the frozen item graph makes of their id vectors.

    A counterfactual modality's graph has weight 0, and its features are the mean.

    Args:
        k: neighbours of an item. weights: of each modality's graph; by default 0.1 and 0.9 for ``image`` and ``text``,
            as published, and equal ones otherwise.
        drop: share of the interactions left out in an epoch; those between nodes of high degree more often.
        extra: weight of the ranking loss of the projected features of each modality.
        layers: of the LightGCN.
    """

    def __init__(
        self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64, k: int = 10,
        weights: Mapping[str, float] | None = None, drop: float = 0.8, extra: float = 1e-3, layers: int = 2,
    ) -> None:  # fmt: skip
        super().__init__(graph, features, dim)
        if k < 1 or not 0 <= drop < 1:
            raise ValueError(f"k={k} must be at least 1 and drop={drop} at least 0 and below 1")
        if weights is None and set(features) == {"image", "text"}:
            weights = {"image": 0.1, "text": 0.9}
        self.weights = dict(weights) if weights else dict.fromkeys(features, 1 / len(features))
        if set(self.weights) != set(features):
            raise ValueError(f"weights are of {', '.join(self.weights)}; the modalities are {', '.join(features)}")
        self.drop, self.extra, self.layers = drop, extra, layers
        self.user, self.item = table(graph.users, dim), table(graph.items, dim)
        self.whole = self._adjacency(graph.user, graph.item)
        self.thinned = self.whole
        self.frozen = nn.ModuleDict({name: fixed_graph(values, k, False) for name, values in features.items()})
        # Without biases, which would cancel in the differences that they are used in.
        self.project = nn.ModuleDict({name: nn.Linear(v.shape[1], dim, bias=False) for name, v in features.items()})

    def _adjacency(self, user: Tensor, item: Tensor) -> Adjacency:
        return Adjacency(edges(user, item, self.graph.users), self.graph.users + self.graph.items)

    def begin_epoch(self, epoch: int) -> None:
        graph = self.graph
        count = int(len(graph.user) * (1 - self.drop))
        if not self.drop or not count:
            return
        degree = [torch.bincount(ids).to(torch.float64) for ids in (graph.user, graph.item)]
        chance = (degree[0][graph.user] * degree[1][graph.item]).rsqrt()
        # The largest of chance / exponential is a sample without replacement, of any size.
        random = generator("edges", graph.seed, epoch)
        waiting = torch.empty(len(chance), dtype=torch.float64).exponential_(generator=random)
        kept = (chance / waiting).topk(count).indices
        self.thinned = self._adjacency(graph.user[kept], graph.item[kept]).to(self.user.device)

    resume_epoch = begin_epoch

    def stream(self, name: str, factual: bool) -> Tensor | None:
        """What items hear of similar items, (ni, dim); None: nothing."""
        return self.weights[name] * self.frozen[name](self.item) if factual else None

    def base(self) -> Vectors:
        adjacency = self.thinned if self.training else self.whole
        mean = propagate(adjacency, torch.cat([self.user, self.item]), self.layers)
        return mean[: self.graph.users], mean[self.graph.users :]

    def fuse(self, base: Vectors, streams: Mapping[str, Tensor | None]) -> list[Vectors]:
        users, items = base
        heard = [stream for stream in streams.values() if stream is not None]
        return [(users, items + torch.stack(heard).sum(0) if heard else items)]

    def extra_loss(self, step: "Step", keep: Sequence[str] | None) -> Tensor | None:
        if not self.extra:
            return None
        user, positive, negative = step.triples
        users = step.views.base[0][user]
        total = users.new_zeros(())
        for name in self.modalities if keep is None else keep:
            values = self.features[name](True)
            difference = self.project[name](values[positive]) - self.project[name](values[negative])
            total = total - functional.logsigmoid((users * difference).sum(1)).mean()
        return self.extra * total
