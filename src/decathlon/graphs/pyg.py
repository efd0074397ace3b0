"""From lists of torch_geometric ``Data`` to packed graphs and back. Needs the package torch-geometric."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from decathlon.graphs.packing import PackedGraphs, packed_graphs

KINDS = ("nodes", "edges", "graphs")


def from_pyg(graphs: Sequence[Any], kinds: Mapping[str, str] | None = None) -> PackedGraphs:
    """Pack ``Data`` objects with ``x`` and ``edge_index``; all their other tensors come along.

    Edges are sorted by target, then by source.

    Args:
        kinds: what a tensor has a row for: ``nodes``, ``edges``, or ``graphs`` (then it becomes one row). Where it is
            left out: of nodes if it is named ``x`` or ``pos``, of edges if its name begins with ``edge``; of graphs
            if it has one row in each; else of nodes or edges if it has as many rows as those in every graph.

    Raises:
        ValueError: the list is empty, an attribute is not in every graph, or its shape differs.
    """
    if not graphs:
        raise ValueError("there are no graphs to pack")
    names = [name for name, value in graphs[0].to_dict().items() if isinstance(value, Tensor) and name != "edge_index"]
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for name in names:
        if any(not isinstance(graph.to_dict().get(name), Tensor) for graph in graphs):
            raise ValueError(f"not every graph has {name}")
        kind = (kinds or {}).get(name) or _kind(name, graphs)
        if kind not in KINDS:
            raise ValueError(f"{name} has a row for {kind}; choose {', '.join(KINDS)}")
        rows = [graph[name] if kind != "graphs" else graph[name].reshape(1, -1) for graph in graphs]
        try:
            parts[kind][name] = torch.cat(rows)
        except RuntimeError as error:
            raise ValueError(f"{name} has not the same shape in every graph") from error
    if "x" not in parts["nodes"]:
        raise ValueError("the graphs have no node features x")
    return packed_graphs(
        torch.tensor([len(graph.x) for graph in graphs]),
        torch.tensor([graph.edge_index.shape[1] for graph in graphs]),
        torch.cat([graph.edge_index for graph in graphs], dim=1),
        **parts,
    )


def _kind(name: str, graphs: Sequence[Any]) -> str:
    if name in ("x", "pos"):
        return "nodes"
    if name.startswith("edge"):
        return "edges"
    rows = [len(graph[name]) if graph[name].dim() else 1 for graph in graphs]
    if all(count == 1 for count in rows):
        return "graphs"
    if all(count == len(graph.x) for count, graph in zip(rows, graphs, strict=True)):
        return "nodes"
    return "edges" if all(n == g.edge_index.shape[1] for n, g in zip(rows, graphs, strict=True)) else "graphs"


def to_pyg(packed: PackedGraphs) -> list[Any]:
    """One ``Data`` per graph, with all that is packed; edges are sorted by target, then by source."""
    from torch_geometric.data import Data

    found = []
    for i in range(len(packed)):
        rows = torch.tensor([i])
        batch = packed.batch(rows)
        attributes = {"x": batch.x, "edge_index": batch.edge_index, "edge_attr": batch.edge_attr, **batch.more}
        if batch.y.shape[1]:
            attributes["y"] = batch.y
        found.append(Data(**{name: value for name, value in attributes.items() if value is not None}))
    return found
