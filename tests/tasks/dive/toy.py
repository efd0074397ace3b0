"""Small graphs and networks for the tests of DIVE."""

import torch
from torch import Tensor, nn

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.packing import PackedGraphs, packed_graphs
from decathlon.tasks.dive.backbone import Backbone, Spec
from decathlon.tasks.dive.methods.dive import DiveMethod

PLAIN = Spec(1, 0, 3, "multiclass", 3)
MOLECULE = Spec((7, 3), (4, 2), 1, "binary", 2)


def random_graphs(n: int = 6, spec: Spec = PLAIN, seed: int = 0, edgeless: bool = False) -> PackedGraphs:
    """Undirected random graphs of 4 to 9 nodes, with labels, environments and a true subgraph."""
    rng = torch.Generator().manual_seed(seed)
    nodes, pairs = [], []
    for _ in range(n):
        size = int(torch.randint(4, 10, (1,), generator=rng))
        upper = torch.triu_indices(size, size, 1)
        keep = (torch.rand(upper.shape[1], generator=rng) < 0.5) & (not edgeless)
        keep[0] = not edgeless
        nodes.append(size)
        pairs.append(upper[:, keep])
    both = [torch.stack([pair, pair.flip(0)], 2).flatten(1) for pair in pairs]
    count = torch.tensor([ends.shape[1] for ends in both])
    total = sum(nodes)
    x = torch.rand(total, 1, generator=rng)
    if isinstance(spec.nodes, tuple):
        x = torch.stack([torch.randint(0, k, (total,), generator=rng) for k in spec.nodes], 1)
    edges = {}
    half = int(count.sum()) // 2
    if isinstance(spec.edges, tuple):
        codes = [torch.randint(0, k, (half,), generator=rng).repeat_interleave(2) for k in spec.edges]
        edges["edge_attr"] = torch.stack(codes, 1)
    edges["edge_gt"] = (torch.rand(half, generator=rng) < 0.4).repeat_interleave(2)
    return packed_graphs(
        torch.tensor(nodes), count, torch.cat(both, 1), {"x": x}, edges,
        {"y": torch.randint(0, max(spec.outputs, 2), (n, 1), generator=rng).float(),
         "env": torch.arange(n) % max(spec.environments, 1)},
    )  # fmt: skip


def a_batch(n: int = 6, spec: Spec = PLAIN, seed: int = 0, edgeless: bool = False) -> FeatureBatch:
    return random_graphs(n, spec, seed, edgeless).batch(torch.arange(n))


def backbone(spec: Spec = PLAIN, width: int = 8, virtual_node: bool = False, dropout: float = 0.0) -> Backbone:
    return Backbone(spec, width, 3, dropout, virtual_node)


def dive_method(
    members: int = 3, spec: Spec = PLAIN, seed: int = 0, virtual_node: bool = False, **options: object
) -> DiveMethod:
    torch.manual_seed(seed)
    return DiveMethod(backbone(spec, virtual_node=virtual_node), members=members, **options)  # type: ignore[arg-type]


class Edge(nn.Module):
    """An extractor of one's own: a linear map of both ends."""

    def __init__(self, inputs: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * inputs, 1)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        return self.linear(torch.cat([x[edge_index[0]], x[edge_index[1]]], 1))[:, 0]


class Sum(nn.Module):
    """A classifier of one's own: weighted degrees, mean over the graph, linear."""

    def __init__(self, inputs: int = 1, outputs: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor, batch: Tensor) -> Tensor:
        source, target = edge_index
        h = x + torch.zeros_like(x).index_add(0, target, edge_weight[:, None] * x[source])
        count = int(batch.max()) + 1
        total = torch.zeros(count, h.shape[1], dtype=h.dtype).index_add(0, batch, h)
        return self.linear(total / torch.bincount(batch, minlength=count)[:, None])
