"""A whole dataset as flat tensors, from which a batch is cut by a few vectorised gathers.

Variable-sized records (the nodes of a graph, its edges) lie one after the other in one tensor; ``starts`` says
where each begins. There is no object per graph, so a batch costs a handful of tensor operations instead of
hundreds of Python calls.
"""

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch


def offsets(counts: Tensor) -> Tensor:
    """Where each of m consecutive records begins, and where the last ends: (m,) counts to (m + 1,) int64."""
    starts = counts.new_zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, dtype=torch.int64, out=starts[1:])
    return starts


def ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """The positions starts[0], starts[0]+1, … (counts[0] of them), starts[1], …: (sum of counts,) int64."""
    return _ranges(starts, counts, offsets(counts))[0]


def _ranges(starts: Tensor, counts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """``ranges`` for known ``offsets(counts)``, and which record each position is of."""
    total = int(ends[-1])
    owner = torch.repeat_interleave(counts, output_size=total)
    return torch.arange(total).add_((starts - ends[:-1]).index_select(0, owner)), owner


class Packed:
    """A dataset of tensors that can be saved, loaded and cut by row."""

    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The dataset of ``state()``; other keys are ignored."""
        return cls(**{item.name: torch.as_tensor(state[item.name]) for item in fields(cls)})  # type: ignore[arg-type]


class Cut(NamedTuple):
    """Some graphs of a packed set: where their rows are, and their adjacency as of a ``GraphBatch``.

    ``nodes`` (N,) and ``edges`` (E,) are positions in the packed tensors.
    """

    nodes: Tensor
    edges: Tensor
    neighbours: Tensor
    edge_starts: Tensor
    node_starts: Tensor

    def adjacency(self) -> dict[str, Tensor]:
        """What a ``GraphBatch`` needs of it."""
        return {"neighbours": self.neighbours, "edge_starts": self.edge_starts, "node_starts": self.node_starts}


class Structure:
    """Which nodes of n graphs are connected.

    Args:
        node_count, edge_count: (n,) of each graph; an undirected edge counts twice.
        degree: (N,) edges that end in each node.
        neighbours: (E,) for each node in turn where its edges come from, counted from the graph's first node.
    """

    def __init__(self, node_count: Tensor, edge_count: Tensor, degree: Tensor, neighbours: Tensor) -> None:
        self.node_count, self.edge_count, self.degree, self.neighbours = node_count, edge_count, degree, neighbours
        self._node_count, self._edge_count = node_count.long(), edge_count.long()
        self._first_node, self._first_edge = offsets(node_count), offsets(edge_count)

    def rows(self, graphs: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the nodes and of the edges of the ``graphs`` (m,) int64."""
        nodes = ranges(self._first_node[graphs], self._node_count[graphs])
        return nodes, ranges(self._first_edge[graphs], self._edge_count[graphs])

    def cut(self, graphs: Tensor) -> Cut:
        """The ``graphs`` (m,) int64 as one graph with consecutive nodes."""
        # index_select throughout: for short indices [...] takes several times as long
        node_count, edge_count = self._node_count.index_select(0, graphs), self._edge_count.index_select(0, graphs)
        node_starts = offsets(node_count)
        nodes, _ = _ranges(self._first_node.index_select(0, graphs), node_count, node_starts)
        edges, owner = _ranges(self._first_edge.index_select(0, graphs), edge_count, offsets(edge_count))
        neighbours = node_starts.index_select(0, owner).add_(self.neighbours.index_select(0, edges))
        return Cut(nodes, edges, neighbours, offsets(self.degree.index_select(0, nodes)), node_starts)


@dataclass
class PackedGraphs(Packed):
    """n graphs with any features, N nodes and E directed edges in all; ``packed_graphs`` makes it.

    Attributes:
        node_count, edge_count, degree, neighbours: see ``Structure``; edges are sorted by target, then by source.
        nodes, edges, graphs: tensors with a row for each node, edge and graph; ``x``, ``edge_attr`` and ``y`` are those
            of a batch.
        symmetric: whether each edge is there in both directions.
    """

    node_count: Tensor
    edge_count: Tensor
    degree: Tensor
    neighbours: Tensor
    nodes: dict[str, Tensor]
    edges: dict[str, Tensor] = field(default_factory=dict)
    graphs: dict[str, Tensor] = field(default_factory=dict)
    symmetric: bool = True

    def __post_init__(self) -> None:
        self._structure = Structure(self.node_count, self.edge_count, self.degree, self.neighbours)

    def __len__(self) -> int:
        return len(self.node_count)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The graphs of ``state()``."""
        return cls(**{item.name: state[item.name] for item in fields(cls)})

    def batch(self, rows: Tensor) -> FeatureBatch:
        """The graphs at ``rows`` (m,) int64; its ``index`` is ``rows``."""
        cut = self._structure.cut(rows)
        values = {
            **{name: value.index_select(0, cut.nodes) for name, value in self.nodes.items()},
            **{name: value.index_select(0, cut.edges) for name, value in self.edges.items()},
            **{name: value.index_select(0, rows) for name, value in self.graphs.items()},
        }
        y = values.pop("y", torch.zeros(len(rows), 0))
        x, edge_attr = values.pop("x"), values.pop("edge_attr", None)
        return FeatureBatch(rows, y, **cut.adjacency(), x=x, edge_attr=edge_attr, symmetric=self.symmetric, more=values)

    def select(self, rows: Tensor) -> "PackedGraphs":
        """The graphs at ``rows`` (m,) int64."""
        nodes, edges = self._structure.rows(rows)
        return PackedGraphs(
            self.node_count[rows], self.edge_count[rows], self.degree[nodes], self.neighbours[edges],
            {name: value[nodes] for name, value in self.nodes.items()},
            {name: value[edges] for name, value in self.edges.items()},
            {name: value[rows] for name, value in self.graphs.items()}, self.symmetric,
        )  # fmt: skip


def packed_graphs(
    node_count: Tensor,
    edge_count: Tensor,
    edge_index: Tensor,
    nodes: dict[str, Tensor],
    edges: dict[str, Tensor] | None = None,
    graphs: dict[str, Tensor] | None = None,
) -> PackedGraphs:
    """Pack n graphs in one pass.

    Args:
        node_count, edge_count: (n,) of each graph.
        edge_index: (2, E) sources and targets of the edges of one graph after the other, each counted from its graph's
            first node; an undirected edge is there twice.
        nodes, edges, graphs: tensors with a row for each node (``x`` at least), each edge in this order, each graph.

    Raises:
        ValueError: the numbers do not fit together, or an edge leaves its graph.
    """
    edges, graphs = edges or {}, graphs or {}
    total, count = int(node_count.sum()), int(edge_count.sum())
    sizes = {"node": (nodes, total), "edge": (edges, count), "graph": (graphs, len(node_count))}
    for what, (tensors, size) in sizes.items():
        for name, value in tensors.items():
            if len(value) != size:
                raise ValueError(f"{name} has {len(value)} rows, there are {size} {what}s")
    if edge_index.shape != (2, count):
        raise ValueError(f"edge_index has shape {tuple(edge_index.shape)}, there are {count} edges")
    most = torch.repeat_interleave(node_count.long(), edge_count.long(), output_size=count)
    if count and (int(edge_index.min()) < 0 or bool((edge_index >= most).any())):
        raise ValueError("an edge ends in a node that its graph does not have")
    first = torch.repeat_interleave(offsets(node_count)[:-1], edge_count.long(), output_size=count)
    source, target = edge_index.long() + first
    key = target * total + source
    order = key.argsort(stable=True)
    symmetric = torch.equal(key[order], (source * total + target).sort().values)
    return PackedGraphs(
        node_count.long(), edge_count.long(), torch.bincount(target, minlength=total),
        edge_index[0][order].to(torch.int32), dict(nodes), {name: value[order] for name, value in edges.items()},
        dict(graphs), symmetric,
    )  # fmt: skip


def pairs_within(node_starts: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different nodes of one graph, for a batch of graphs.

    Args:
        node_starts: (m + 1,) int64.

    Returns:
        Two (P,) int64 tensors of positions in the batch; the first is ascending.
    """
    count = node_starts.diff()
    per_node = torch.repeat_interleave(count, count)
    first_of_mine = torch.repeat_interleave(node_starts[:-1], count)
    i = torch.repeat_interleave(torch.arange(len(per_node), device=count.device), per_node)
    begin = per_node.cumsum(0) - per_node
    j = torch.arange(len(i), device=count.device) - begin[i] + first_of_mine[i]
    other = i != j
    return i[other], j[other]
