"""The graph isomorphism network (Xu et al., ICLR 2019) on any node features, with edge features and weights."""

from typing import Any

import torch
from torch import Tensor, nn

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.dropout import Dropout
from decathlon.graphs.norm import BatchNorm
from decathlon.graphs.packing import offsets
from decathlon.graphs.sums import mean_segments, sum_messages, sum_neighbours, sum_segments, sum_weighted_neighbours


class Edges:
    """The edges of a batch, for several layers.

    Args:
        edges: a ``FeatureBatch``; or ``edge_index`` (2, E), sources and targets in any order, as in torch_geometric.
        nodes: N; needed beside an ``edge_index``.
        weight: (E,), by which each edge's message is multiplied; all 1 by default. A weight of 0 takes the edge out.
    """

    def __init__(self, edges: FeatureBatch | Tensor, nodes: int | None = None, weight: Tensor | None = None) -> None:
        self.weight = weight
        self.csr: tuple[Tensor, Tensor] | None = None
        self.symmetric = False
        if isinstance(edges, Tensor):
            if nodes is None:
                raise ValueError("an edge_index needs the number of nodes beside it")
            (self.source, self.target), self.nodes = edges, nodes
        else:
            self.source, self.nodes = edges.neighbours, len(edges.edge_starts) - 1
            self.csr, self.symmetric = (edges.neighbours, edges.edge_starts), edges.symmetric
            if not self.symmetric or weight is not None:
                self.target = edges.owner
            if self.symmetric and weight is not None:
                self.reverse = edges.reverse
        if weight is not None and weight.shape != self.source.shape:
            raise ValueError(f"{len(self.source)} edges need as many weights, got shape {tuple(weight.shape)}")

    def sum(self, x: Tensor, attribute: Tensor | None = None) -> Tensor:
        """For each node v the sum over its edges (u, v) of w_uv x_u, or with ``attribute`` (E, D) of
        w_uv ReLU(x_u + attribute_uv): (N, D)."""
        if attribute is None and self.csr is not None and self.symmetric:
            if self.weight is None:
                return sum_neighbours(x, *self.csr)
            return sum_weighted_neighbours(x, self.weight.to(x.dtype), *self.csr, self.reverse)
        messages = x.index_select(0, self.source)
        if attribute is not None:
            messages = (messages + attribute).relu()
        if self.weight is not None:
            messages = messages * self.weight[:, None]
        if self.csr is not None:
            return sum_segments(messages, self.csr[1])
        return sum_messages(messages, self.target, self.nodes)


class GinLayer(nn.Module):
    """x_v <- MLP((1 + eps) x_v + sum over edges (u, v) of w_uv x_u), MLP = Linear, BatchNorm, ReLU, Linear.

    With edge vectors e the messages are w_uv ReLU(x_u + e_uv) (GINE: Hu et al., ICLR 2020). The weight stands outside
    of the ReLU, so that an edge of weight 0 tells nothing. eps is fixed.

    Args:
        inputs, outputs: lengths of the vectors of nodes. hidden: of the MLP; twice ``outputs`` by default.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int | None = None, eps: float = 0.0) -> None:
        super().__init__()
        hidden = 2 * outputs if hidden is None else hidden
        self.eps = eps
        self.mlp = nn.Sequential(
            nn.Linear(inputs, hidden), BatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )  # fmt: skip

    def forward(self, x: Tensor, edges: Edges, attribute: Tensor | None = None) -> Tensor:
        """Node vectors (N, inputs), and edge vectors (E, inputs) if there are any, to (N, outputs)."""
        own = x if self.eps == 0 else (1 + self.eps) * x
        return self.mlp(own + edges.sum(x, attribute))


class Gin(nn.Module):
    """Layers of [GIN, BatchNorm, ReLU, Dropout], without the ReLU after the last one.

    Args:
        inputs: length F of the node features. width: of all other vectors of nodes. layers: how many.
        dropout: after every layer.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, inputs: int, width: int = 300, layers: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        if inputs < 1 or width < 1 or layers < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"GIN needs inputs, width, layers >= 1 and 0 <= dropout < 1; got {inputs}, {width}, {layers}, {dropout}"
            )
        self.out_dim = width
        self.layers = nn.ModuleList(GinLayer(width if i else inputs, width) for i in range(layers))
        self.norms = nn.ModuleList(BatchNorm(width) for _ in range(layers))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, edges: FeatureBatch | Tensor | Edges, edge_weight: Tensor | None = None) -> Tensor:
        """Node vectors (N, width).

        Args:
            x: (N, F). edges: a batch of graphs, or ``edge_index`` (2, E), or either as ``Edges``.
            edge_weight: (E,), by which messages are multiplied, in the order of the edges; not beside ``Edges``.
        """
        if not isinstance(edges, Edges):
            edges = Edges(edges, len(x), edge_weight)
        elif edge_weight is not None:
            raise ValueError("the edges have weights of their own: make Edges with weight=")
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x, edges))
            x = self.dropout(x.relu() if i + 1 < len(self.layers) else x)
        return x


def mean_nodes(x: Tensor, graphs: Any, count: int | None = None) -> Tensor:
    """The mean of each graph's node vectors: (N, D) to (B, D), 0 for a graph without nodes.

    Args:
        graphs: a batch with ``node_starts``, or ``batch`` (N,) int64, the ascending number of each node's graph, as in
            torch_geometric.
        count: B; needed beside a tensor whose last graphs may have no nodes.
    """
    if not isinstance(graphs, Tensor):
        return mean_segments(x, graphs.node_starts)
    if len(graphs) > 1 and bool((graphs.diff() < 0).any()):
        raise ValueError("the nodes of a graph must lie together: `batch` has to be ascending")
    return mean_segments(x, offsets(torch.bincount(graphs, minlength=count or 0)))
