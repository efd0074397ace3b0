"""Backbones without features: matrix factorisation and LightGCN."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decathlon.recommendation.propagation import Adjacency, edges, propagate
from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Vectors, table


class MF(Backbone):
    """Matrix factorisation: a vector of each user and each item (BPR-MF, Rendle et al., UAI 2009)."""

    multimodal = False

    def __init__(self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64) -> None:
        super().__init__(graph, features, dim)
        self.user, self.item = table(graph.users, dim), table(graph.items, dim)

    def base(self) -> Vectors:
        return self.user, self.item

    def fuse(self, base: Vectors, streams: Mapping[str, Any]) -> list[Vectors]:
        return [base]


class LightGCN(Backbone):
    """The mean over layers of the id vectors propagated on the user-item graph (He et al., SIGIR 2020)."""

    multimodal = False

    def __init__(self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64, layers: int = 2) -> None:
        super().__init__(graph, features, dim)
        self.user, self.item, self.layers = table(graph.users, dim), table(graph.items, dim), layers
        nodes = graph.users + graph.items
        self.adjacency = Adjacency(edges(graph.user, graph.item, graph.users), nodes)

    def base(self) -> Vectors:
        mean = propagate(self.adjacency, torch.cat([self.user, self.item]), self.layers)
        return mean[: self.graph.users], mean[self.graph.users :]

    def fuse(self, base: Vectors, streams: Mapping[str, Any]) -> list[Vectors]:
        return [base]
