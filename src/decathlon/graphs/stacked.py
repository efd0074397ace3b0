"""m networks of one architecture as batched products: a first dimension m in front of all weights and vectors."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from decathlon.graphs.batches import GraphBatch
from decathlon.graphs.dropout import Dropout
from decathlon.graphs.gin import Edges
from decathlon.graphs.sums import gather_ends, mean_segments, sum_segments


@dataclass
class Copies:
    """m disjoint copies of a batch of graphs, for ``graphs.gin.Edges``: node v of copy k is k N + v.

    Args:
        batch: the batch; with ``symmetric``, if it is a ``FeatureBatch``. members: m.
    """

    batch: GraphBatch
    members: int

    def __post_init__(self) -> None:
        self.symmetric = bool(getattr(self.batch, "symmetric", True))
        self.nodes, self.edges = len(self.batch.edge_starts) - 1, len(self.batch.neighbours)

    def _shifted(self, positions: Tensor, by: int) -> Tensor:
        shift = torch.arange(self.members, device=positions.device) * by
        return (positions + shift[:, None]).flatten()

    def _starts(self, starts: Tensor, total: int) -> Tensor:
        return torch.cat([self._shifted(starts[:-1], total), starts.new_tensor([self.members * total])])

    @cached_property
    def neighbours(self) -> Tensor:
        return self._shifted(self.batch.neighbours, self.nodes)

    @cached_property
    def owner(self) -> Tensor:
        return self._shifted(self.batch.owner, self.nodes)

    @cached_property
    def edge_starts(self) -> Tensor:
        return self._starts(self.batch.edge_starts, self.edges)

    @cached_property
    def node_starts(self) -> Tensor:
        return self._starts(self.batch.node_starts, self.nodes)

    @cached_property
    def pair(self) -> Tensor:
        """(E,) int64 of the batch itself: for each edge the position of its counterpart."""
        return self.batch.reverse

    @cached_property
    def reverse(self) -> Tensor:
        return self._shifted(self.pair, self.edges)

    def weighted(self, weight: Tensor | None) -> Edges:
        """The edges with weights (m, E), or without."""
        return Edges(self, weight=None if weight is None else weight.flatten())  # type: ignore[arg-type]

    def mean_nodes(self, x: Tensor) -> Tensor:
        """The mean over the nodes of each graph: (m, N, D) to (m, B, D); 0 for a graph without nodes."""
        return mean_segments(x.flatten(0, 1), self.node_starts).unflatten(0, (self.members, -1))

    def sum_nodes(self, x: Tensor) -> Tensor:
        """The sum over the nodes of each graph: (m, N, D) to (m, B, D)."""
        return sum_segments(x.flatten(0, 1), self.node_starts).unflatten(0, (self.members, -1))

    def both_ends(self, source: Tensor, target: Tensor) -> Tensor:
        """For each edge (u, v) ``source[u] + target[v]``: two (m, N, D) to (m, E, D)."""
        a, b = source.flatten(0, 1), target.flatten(0, 1)
        if self.symmetric:
            found = gather_ends(a, b, self.neighbours, self.edge_starts, self.reverse)
        else:
            found = a[self.neighbours] + b[self.owner]
        return found.unflatten(0, (self.members, -1))


class Linear(nn.Module):
    """m linear layers, drawn like ``nn.Linear``: (m, N, inputs) to (m, N, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        layers = [nn.Linear(inputs, outputs) for _ in range(members)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T.contiguous() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight)


class BatchNorm(nn.Module):
    """m batch normalisations (m, N, D) over N, equal to m of ``graphs.norm.BatchNorm``; one row has no variance."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, members: int, width: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(members, width))
        self.bias = nn.Parameter(torch.zeros(members, width))
        self.register_buffer("running_mean", torch.zeros(members, width))
        self.register_buffer("running_var", torch.ones(members, width))

    def forward(self, x: Tensor) -> Tensor:
        members, rows, width = x.shape
        batch = self.training and rows > 1
        flat = x.transpose(0, 1).reshape(rows, members * width)  # all members' channels side by side
        found = nn.functional.batch_norm(
            flat, self.running_mean.view(-1), self.running_var.view(-1), self.weight.view(-1), self.bias.view(-1),
            batch, self.momentum if batch else 0.0, self.eps,
        )  # fmt: skip
        return found.view(rows, members, width).transpose(0, 1)


def mlp(members: int, inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """m times Linear, BatchNorm, ReLU, Linear."""
    layers = Linear(members, inputs, hidden), BatchNorm(members, hidden), nn.ReLU(), Linear(members, hidden, outputs)
    return nn.Sequential(*layers)


class Gin(nn.Module):
    """m graph isomorphism networks, each a ``graphs.gin.Gin``: [GIN, BatchNorm, ReLU, Dropout], without the last ReLU.

    x_v <- MLP(x_v + sum over edges (u, v) of w_uv x_u); with edge vectors e the messages are w_uv ReLU(x_u + e_uv)
    (GINE: Hu et al., ICLR 2020), the weight outside, so that an edge of weight 0 tells nothing.

    Args:
        members: m. inputs: length of the node vectors that come in. width: of all others. layers: how many.
        dropout: after every layer.
        virtual_node: a node that is connected to all of its graph: v, learnt, is added to x before each layer but the
            first; after each layer but the last, from the second on, v <- MLP_v(sum of x + v). Its sum is over all
            nodes, whatever the weights.
    """

    def __init__(
        self, members: int, inputs: int, width: int, layers: int = 3, dropout: float = 0.5, virtual_node: bool = False
    ) -> None:
        super().__init__()
        if members < 1 or inputs < 1 or width < 1 or layers < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"GIN needs members, inputs, width, layers >= 1 and 0 <= dropout < 1; "
                f"got {members}, {inputs}, {width}, {layers}, {dropout}"
            )
        self.members, self.out_dim = members, width
        self.mlps = nn.ModuleList(mlp(members, width if i else inputs, 2 * width, width) for i in range(layers))
        self.norms = nn.ModuleList(BatchNorm(members, width) for _ in range(layers))
        self.dropout = Dropout(dropout)
        self.virtual: nn.Parameter | None = None
        self.virtual_mlps = nn.ModuleList()
        if virtual_node and layers > 1:
            self.virtual = nn.Parameter(torch.stack([torch.randn(width) for _ in range(members)]))
            for _ in range(layers - 2):
                parts = [*mlp(members, width, 2 * width, width), BatchNorm(members, width), nn.ReLU()]
                self.virtual_mlps.append(nn.Sequential(*parts, Dropout(dropout)))

    def forward(
        self, x: Tensor, copies: Copies, weight: Tensor | None = None, attributes: list[Tensor] | None = None
    ) -> Tensor:
        """Node vectors (m, N, width).

        Args:
            x: (m, N, inputs). copies: the edges. weight: (m, E) of the edges.
            attributes: for each layer the vectors of the edges, (m, E, length of the node vectors).
        """
        edges, last = copies.weighted(weight), len(self.mlps) - 1
        virtual = None if self.virtual is None else self.virtual[:, None].expand(-1, len(copies.batch), -1)
        for i, (layer, norm) in enumerate(zip(self.mlps, self.norms, strict=True)):
            if virtual is not None and i:
                x = x + virtual[:, copies.batch.graph]
            flat = x.reshape(-1, x.shape[-1])
            total = edges.sum(flat, None if attributes is None else attributes[i].flatten(0, 1))
            x = norm(layer((flat + total).unflatten(0, (self.members, -1))))
            x = self.dropout(x.relu() if i < last else x)
            if virtual is not None and 0 < i < last:
                virtual = self.virtual_mlps[i - 1](copies.sum_nodes(x) + virtual)
        return x
