"""Batches of graphs: what a network on graphs gets."""

from dataclasses import dataclass, fields
from typing import Self

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
        return type(self)(
            **{item.name: getattr(self, item.name).to(device, non_blocking=non_blocking) for item in fields(self)}
        )

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return type(self)(**{item.name: getattr(self, item.name).pin_memory() for item in fields(self)})


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
    def graph(self) -> Tensor:
        """(N,) int64, the graph of each node."""
        return owners(self.node_starts, len(self.edge_starts) - 1)
