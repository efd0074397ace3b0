"""Batches of graphs: what a network on graphs gets."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor


@dataclass
class Batch:
    """B samples.

    Attributes:
        index: (B,) int64, positions in the set that the batch was cut from.
        y: (B, T) float32 labels, NaN where unknown.
    """

    index: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{item.name: _changed(getattr(self, item.name), change) for item in fields(self)})


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, dict):
        return {name: _changed(item, change) for name, item in value.items()}
    return change(value) if isinstance(value, Tensor) else value


def owners(starts: Tensor, total: int) -> Tensor:
    """The record that each entry belongs to: (m + 1,) offsets of m records to (total,) int64."""
    records = torch.arange(len(starts) - 1, device=starts.device)
    return torch.repeat_interleave(records, starts.diff(), output_size=total)


@dataclass
class GraphBatch(Batch):
    """B graphs with N nodes and E edge ends in all.

    The neighbours of node v are ``neighbours[edge_starts[v]:edge_starts[v + 1]]``: a CSR adjacency matrix that is
    symmetric. Graph b consists of the nodes ``node_starts[b]`` to ``node_starts[b + 1]``.

    Attributes:
        neighbours: (E,) int64 positions in the batch.
        edge_starts: (N + 1,) int64. node_starts: (B + 1,) int64.
    """

    neighbours: Tensor
    edge_starts: Tensor
    node_starts: Tensor

    @property
    def owner(self) -> Tensor:
        """(E,) int64, the node whose neighbour each entry of ``neighbours`` is."""
        return owners(self.edge_starts, len(self.neighbours))

    @property
    def edge_index(self) -> Tensor:
        """(2, E) int64, source and target nodes, as in torch_geometric."""
        return torch.stack([self.neighbours, self.owner])

    @property
    def reverse(self) -> Tensor:
        """(E,) int64, for each edge (u, v) the position of (v, u); neighbours must be ascending within each node.

        Raises:
            ValueError: an edge has no counterpart.
        """
        n = len(self.edge_starts) - 1
        owner = self.owner
        key, back = owner * n + self.neighbours, self.neighbours * n + owner
        found = torch.searchsorted(key, back).clamp(max=max(len(key) - 1, 0))
        if not torch.equal(key[found], back):
            raise ValueError("the edges are directed: not every edge has a counterpart in the other direction")
        return found

    @property
    def graph(self) -> Tensor:
        """(N,) int64, the graph of each node."""
        return owners(self.node_starts, len(self.edge_starts) - 1)


@dataclass
class FeatureBatch(GraphBatch):
    """B graphs with features, N nodes and E directed edges in all; what a network like ``graphs.gin.Gin`` gets.

    Attributes:
        x: (N, F) of the nodes.
        edge_attr: (E, D) of the edges, None where they have none.
        symmetric: whether each edge is there in both directions; only then ``sum_neighbours`` has the right gradient.
        more: other tensors, with a row for each node, each edge or each graph, by name.
    """

    x: Tensor
    edge_attr: Tensor | None = None
    symmetric: bool = True
    more: dict[str, Tensor] = field(default_factory=dict)
