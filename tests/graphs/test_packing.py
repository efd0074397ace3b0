"""Any graphs, packed: batches equal torch_geometric's, lists of ``Data`` go in and out."""

from typing import Any

import pytest
import torch

from decathlon.graphs.packing import PackedGraphs, packed_graphs, ranges
from decathlon.graphs.pyg import from_pyg, to_pyg
from tests.graphs.toy import directed, random_graphs


def test_ranges() -> None:
    assert ranges(torch.tensor([5, 0, 9]), torch.tensor([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(torch.tensor([3]), torch.tensor([0])).tolist() == []


@pytest.mark.parametrize("make", [random_graphs, directed])
def test_lists_of_data_go_in_and_out(make: Any) -> None:
    graphs = make()
    packed = from_pyg(graphs)
    assert len(packed) == len(graphs) and packed.symmetric == (make is random_graphs)
    for before, after in zip(graphs, to_pyg(packed), strict=True):
        assert torch.equal(after.x, before.x) and torch.equal(after.y.flatten(), before.y.flatten())
        assert after.env.item() == before.env and torch.equal(after.place, before.place)
        sides = [sorted(zip(map(tuple, g.edge_index.T.tolist()), g.edge_attr.tolist())) for g in (before, after)]
        assert sides[0] == sides[1]
        order = after.edge_index[1] * len(after.x) + after.edge_index[0]
        assert torch.equal(order, order.sort().values)


@pytest.mark.parametrize("rows", [[0], [3], [5, 1, 1, 0], list(range(12))])
@pytest.mark.parametrize("make", [random_graphs, directed])
def test_a_batch_is_the_one_that_torch_geometric_makes(make: Any, rows: list[int]) -> None:
    from torch_geometric.loader import DataLoader

    packed = from_pyg(make())
    graphs = to_pyg(packed)
    (expected,) = DataLoader([graphs[row] for row in rows], batch_size=len(rows))
    batch = packed.batch(torch.tensor(rows))
    assert torch.equal(batch.x, expected.x) and torch.equal(batch.edge_index, expected.edge_index)
    assert torch.equal(batch.edge_attr, expected.edge_attr) and torch.equal(batch.y, expected.y)
    assert torch.equal(batch.graph, expected.batch) and torch.equal(batch.node_starts, expected.ptr)
    assert torch.equal(batch.more["place"], expected.place)
    assert torch.equal(batch.more["env"].flatten(), expected.env.flatten())
    assert batch.index.tolist() == rows
    if packed.symmetric:
        source, target = batch.edge_index
        assert torch.equal(batch.edge_index[:, batch.reverse], torch.stack([target, source]))
    elif len(batch.edge_index[0]):
        with pytest.raises(ValueError, match="directed"):
            _ = batch.reverse


def test_what_a_tensor_has_a_row_for_may_be_said() -> None:
    """Where every graph has three nodes, three labels of a graph look like one of each node."""
    from torch_geometric.data import Data

    edge_index = torch.tensor([[0, 1], [1, 0]])
    graphs = [Data(x=torch.ones(3, 1), edge_index=edge_index, y=torch.arange(3.0) + i) for i in range(2)]
    assert "y" in from_pyg(graphs).nodes
    packed = from_pyg(graphs, {"y": "graphs"})
    assert packed.batch(torch.tensor([1])).y.tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match="choose nodes, edges, graphs"):
        from_pyg(graphs, {"y": "graph"})


def test_selecting_saving_and_moving() -> None:
    packed = from_pyg(random_graphs())
    part = packed.select(torch.tensor([4, 9, 2]))
    one, two = part.batch(torch.tensor([2, 0])), packed.batch(torch.tensor([2, 4]))
    for name in ("x", "y", "neighbours", "edge_starts", "node_starts", "edge_attr"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    again = PackedGraphs.from_state(packed.state())
    assert torch.equal(again.batch(torch.tensor([3])).x, packed.batch(torch.tensor([3])).x)
    moved = one.to("meta")
    assert moved.x.is_meta and moved.more["place"].is_meta and moved.symmetric


def test_what_does_not_fit_together_is_named() -> None:
    two, one = torch.tensor([2, 1]), torch.tensor([1, 0])
    x = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="x has 3 rows, there are 4 nodes"):
        packed_graphs(torch.tensor([2, 2]), one, torch.tensor([[0], [1]]), {"x": x})
    for wrong in ([[0], [2]], [[-1], [0]]):
        with pytest.raises(ValueError, match="a node that its graph does not have"):
            packed_graphs(two, one, torch.tensor(wrong), {"x": x})
    with pytest.raises(ValueError, match="there are 1 edges"):
        packed_graphs(two, one, torch.zeros(2, 3, dtype=torch.int64), {"x": x})
    with pytest.raises(ValueError, match="no graphs"):
        from_pyg([])
    graphs = random_graphs()
    del graphs[3].place
    with pytest.raises(ValueError, match="not every graph has place"):
        from_pyg(graphs)
