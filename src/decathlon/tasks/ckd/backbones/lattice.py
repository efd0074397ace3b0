"""LATTICE (Zhang et al., ACM MM 2021): items also hear from similar items, by raw and by learnt similarity."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from decathlon.recommendation.propagation import Adjacency, edges, propagate
from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Vectors, table
from decathlon.tasks.ckd.backbones.neighbours import cosines, fixed_graph, nearest, symmetric_weights


class LATTICE(Backbone):
    """LightGCN, and to the items the normalised row of S E_i, S being the weighted sum of the modalities' graphs.

    A modality's graph is ``skip`` of the one of its raw features and the rest of the one of its projected features,
    whose neighbours are found anew in every epoch, and whose cosines carry gradients in every step (in the published
    code, in the first step of an epoch). A counterfactual modality has a graph of weight 0.

    Args:
        k: neighbours of an item, itself among them. skip: share of the raw graph. layers: of the LightGCN.
    """

    def __init__(
        self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64, k: int = 10, skip: float = 0.9,
        layers: int = 2,
    ) -> None:  # fmt: skip
        super().__init__(graph, features, dim)
        if k < 1 or not 0 <= skip <= 1:
            raise ValueError(f"k={k} must be at least 1 and skip={skip} a share")
        self.skip, self.layers, self.k = skip, layers, min(k, graph.items)
        self.user, self.item = table(graph.users, dim), table(graph.items, dim)
        self.adjacency = Adjacency(edges(graph.user, graph.item, graph.users), graph.users + graph.items)
        self.raw = nn.ModuleDict({name: fixed_graph(values, self.k, True) for name, values in features.items()})
        self.project = nn.ModuleDict({name: nn.Linear(values.shape[1], dim) for name, values in features.items()})
        self.mix = nn.Parameter(torch.ones(len(self.modalities)))
        for name in self.modalities:  # in checkpoints: what is tested is what was validated
            self.register_buffer(f"neighbours_{name}", nearest(features[name], self.k))

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        for name in self.modalities:
            found = nearest(self.project[name](self.features[name](True)), self.k)
            getattr(self, f"neighbours_{name}").copy_(found)

    def stream(self, name: str, factual: bool) -> Tensor | None:
        """What items hear of similar items, (ni, dim); None: nothing."""
        if not factual:
            return None
        places = getattr(self, f"neighbours_{name}")
        learnt = symmetric_weights(places, cosines(self.project[name](self.features[name](True)), places).clamp(min=0))
        heard = (learnt[..., None] * self.item[places]).sum(1)
        return self.skip * self.raw[name](self.item) + (1 - self.skip) * heard

    def base(self) -> Vectors:
        mean = propagate(self.adjacency, torch.cat([self.user, self.item]), self.layers)
        return mean[: self.graph.users], mean[self.graph.users :]

    def fuse(self, base: Vectors, streams: Mapping[str, Tensor | None]) -> list[Vectors]:
        users, items = base
        shares = self.mix.softmax(0)
        heard = [share * stream for share, stream in zip(shares, streams.values()) if stream is not None]
        if heard:
            items = items + functional.normalize(torch.stack(heard).sum(0))
        return [(users, items)]
