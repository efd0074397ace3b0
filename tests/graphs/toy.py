"""Random graphs of torch_geometric, with features of every kind."""

from typing import Any

import torch


def directed(count: int = 12, undirected: bool = False) -> list[Any]:
    """Graphs of 1 to 8 nodes with features of nodes, edges and graphs; some without edges."""
    from torch_geometric.data import Data
    from torch_geometric.utils import coalesce, to_undirected

    draw = torch.Generator().manual_seed(0)
    graphs = []
    for i in range(count):
        nodes = 1 + i % 8
        edge_index = torch.randint(nodes, (2, 2 * (i % 5) * (nodes > 1)), generator=draw)
        edge_index = edge_index[:, edge_index[0] != edge_index[1]]
        edge_index = to_undirected(edge_index, num_nodes=nodes) if undirected else coalesce(edge_index)
        mixed = torch.randperm(edge_index.shape[1], generator=draw)
        graphs.append(
            Data(
                x=torch.randn(nodes, 3, generator=draw), edge_index=edge_index[:, mixed],
                edge_attr=torch.randn(len(mixed), 2, generator=draw), y=torch.randn(1, 2, generator=draw),
                env=torch.tensor([i % 3]), place=torch.arange(nodes),
            )
        )  # fmt: skip
    return graphs


def random_graphs(count: int = 12) -> list[Any]:
    """As ``directed``, with every edge in both directions."""
    return directed(count, undirected=True)
