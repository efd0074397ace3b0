"""A bare GIN: equal to torch_geometric's layers, with and without weights, in every form of the edges."""

from typing import Any

import pytest
import torch
from torch import nn

from decathlon.graphs.gin import Edges, Gin, GinLayer, mean_nodes
from decathlon.graphs.pyg import from_pyg
from tests.graphs.toy import directed, random_graphs

MAKE = [random_graphs, directed]


@pytest.mark.parametrize("make", MAKE)
def test_a_layer_is_ginconv(make: Any) -> None:
    from torch_geometric.nn import GINConv

    batch = from_pyg(make()).batch(torch.arange(12))
    layer = GinLayer(3, 5, eps=0.3)
    peer = GINConv(layer.mlp, eps=0.3)
    for edges in (Edges(batch), Edges(batch.edge_index.flip(1), len(batch.x))):
        torch.testing.assert_close(layer(batch.x, edges), peer(batch.x, batch.edge_index))


@pytest.mark.parametrize("make", MAKE)
def test_with_edge_vectors_it_is_gineconv(make: Any) -> None:
    from torch_geometric.nn import GINEConv

    batch = from_pyg(make()).batch(torch.arange(12))
    layer, attribute = GinLayer(3, 5), torch.randn(len(batch.neighbours), 3)
    expected = GINEConv(layer.mlp)(batch.x, batch.edge_index, attribute)
    torch.testing.assert_close(layer(batch.x, Edges(batch), attribute), expected)
    torch.testing.assert_close(layer(batch.x, Edges(batch.edge_index, len(batch.x)), attribute), expected)


@pytest.mark.parametrize("make", MAKE)
def test_gradients_are_those_of_gather_and_scatter(make: Any) -> None:
    """By the weights too: a mask on the edges is trained through them."""
    batch = from_pyg(make()).batch(torch.tensor([7, 11, 3]))
    torch.manual_seed(0)
    network = Gin(3, width=8, layers=3, dropout=0.0).double()
    found = []
    for edges in (batch, batch.edge_index):
        x = batch.x.double().requires_grad_()
        weight = torch.rand(len(batch.neighbours), generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        network.zero_grad()
        output = network(x, edges, weight)
        output.sin().sum().backward()
        found.append(
            [output, x.grad, weight.grad, *[p.grad.clone() for p in network.parameters() if p.grad is not None]]
        )
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain)
    assert found[0][2].abs().sum() > 0


@pytest.mark.parametrize("attribute", [False, True])
def test_an_edge_of_weight_0_is_no_edge(attribute: bool) -> None:
    batch = from_pyg(random_graphs()).batch(torch.arange(12))
    vectors = torch.randn(len(batch.neighbours), 3) if attribute else None
    keep = (torch.rand(len(batch.neighbours), generator=torch.Generator().manual_seed(2)) < 0.5).float()
    layer = GinLayer(3, 4)
    left = Edges(batch.edge_index[:, keep > 0], len(batch.x))
    without = layer(batch.x, left, None if vectors is None else vectors[keep > 0])
    torch.testing.assert_close(layer(batch.x, Edges(batch, weight=keep), vectors), without)
    alone = layer(batch.x, Edges(batch, weight=0 * keep), vectors)  # the self-term is left
    torch.testing.assert_close(alone, layer.mlp(batch.x))


def test_the_encoder_is_its_equations() -> None:
    batch = from_pyg(random_graphs()).batch(torch.arange(12))
    network = Gin(3, width=8, layers=3).eval()
    for norm in network.norms:
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 2)
    adjacency = torch.zeros(len(batch.x), len(batch.x))
    adjacency[batch.edge_index[1], batch.edge_index[0]] = 1
    h = batch.x
    for i, (layer, norm) in enumerate(zip(network.layers, network.norms, strict=True)):
        h = norm(layer.mlp(h + adjacency @ h))
        h = h.relu() if i < 2 else h
    torch.testing.assert_close(network(batch.x, batch), h, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean_nodes(h, batch), mean_nodes(h, batch.graph))
    assert mean_nodes(h, torch.zeros(len(h), dtype=torch.int64), count=3).shape == (3, 8)
    single = network.train()(torch.ones(1, 3), torch.zeros(2, 0, dtype=torch.int64))  # one node, no edge
    assert single.shape == (1, 8) and single.isfinite().all()


def test_the_number_of_parameters() -> None:
    """With one feature, width 300, three layers and three classes: 909,603."""
    model = nn.ModuleList([Gin(1, 300, 3), nn.Linear(300, 3)])
    assert sum(p.numel() for p in model.parameters()) == 909_603


def test_what_cannot_be_is_named() -> None:
    edges = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="needs the number of nodes"):
        Edges(edges)
    with pytest.raises(ValueError, match="4 edges need as many weights"):
        Edges(edges, 3, torch.ones(3))
    with pytest.raises(ValueError, match="weights of their own"):
        Gin(1)(torch.ones(3, 1), Edges(edges, 3), torch.ones(4))
    with pytest.raises(ValueError, match="GIN needs"):
        Gin(0)
    with pytest.raises(ValueError, match="ascending"):
        mean_nodes(torch.ones(3, 1), torch.tensor([0, 1, 0]))
