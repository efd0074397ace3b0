"""Batches cut out of packed data equal batches put together molecule by molecule."""

import numpy as np
import pytest
import torch

from decathlon.graphs.packing import pairs_within
from decathlon.molecules import features
from decathlon.molecules.batches import FingerprintBatch, GeometryBatch
from decathlon.molecules.packing import PackedFingerprints, PackedGraphs
from tests.molecules.toy import SMILES, graph_batch, packed_geometries, packed_graphs

ROWS = [[0], [2], [1, 1], [9, 0, 2, 4, 4, 1], list(range(len(SMILES)))]


@pytest.mark.parametrize("rows", ROWS)
def test_a_batch_of_graphs_equals_a_naive_construction(rows: list[int]) -> None:
    from torch_geometric.data import Batch, Data

    graphs = []
    for row in rows:
        one = features.graphs([SMILES[row]])
        owner = np.repeat(np.arange(len(one["atoms"])), one["degree"])
        graphs.append(
            Data(
                x=torch.from_numpy(one["atoms"]).long(),
                edge_index=torch.from_numpy(np.stack([one["neighbours"], owner])).long(),
                edge_attr=torch.from_numpy(one["bonds"]).long(),
            )
        )
    expected = Batch.from_data_list(graphs)
    batch = graph_batch(rows)
    assert torch.equal(batch.atoms, expected.x)
    assert torch.equal(batch.edge_index, expected.edge_index)
    assert torch.equal(batch.bonds, expected.edge_attr)
    assert torch.equal(batch.graph, expected.batch)
    assert torch.equal(batch.node_starts, expected.ptr)
    assert batch.index.tolist() == rows and len(batch) == len(rows)


def test_the_adjacency_is_symmetric() -> None:
    batch = graph_batch(list(range(len(SMILES))))
    bonds = {(u, v): kind for (u, v), kind in zip(batch.edge_index.T.tolist(), batch.bonds.tolist())}
    assert all(bonds[v, u] == kind for (u, v), kind in bonds.items())


def test_selecting_then_cutting_is_cutting() -> None:
    packed = packed_graphs()
    rows = torch.tensor([9, 1, 4])
    part = packed.select(rows)
    for name, value in part.cut(torch.tensor([2, 0])).items():
        assert torch.equal(value, packed.cut(torch.tensor([4, 9]))[name])


def test_state_round_trip(tmp_path) -> None:
    packed = packed_graphs()
    torch.save(packed.state(), tmp_path / "graphs.pt")
    again = PackedGraphs.from_state(torch.load(tmp_path / "graphs.pt", weights_only=True))
    assert all(torch.equal(value, again.state()[name]) for name, value in packed.state().items())


def test_fingerprints_are_unpacked() -> None:
    bits = torch.randint(256, (5, 16), dtype=torch.uint8)
    dense = PackedFingerprints(bits).dense(torch.tensor([3, 0]))
    assert dense.dtype == torch.float32
    np.testing.assert_array_equal(dense.numpy(), np.unpackbits(bits[[3, 0]].numpy(), axis=1))


def test_geometries_and_pairs() -> None:
    packed = packed_geometries([3, 1, 4])
    batch = GeometryBatch(torch.tensor([2, 0]), torch.zeros(2, 1), **packed.cut(torch.tensor([2, 0])))
    assert torch.equal(batch.positions, torch.cat([packed.positions[4:8], packed.positions[:3]]))
    assert batch.graph.tolist() == [0] * 4 + [1] * 3
    pairs = list(zip(*(part.tolist() for part in pairs_within(packed.cut(torch.arange(3))["node_starts"]))))
    molecule = [0, 0, 0, 1, 2, 2, 2, 2]
    assert pairs == [(i, j) for i in range(8) for j in range(8) if i != j and molecule[i] == molecule[j]]


def test_batches_move() -> None:
    batch = graph_batch([0, 1]).to("cpu")
    assert torch.equal(batch.atoms, graph_batch([0, 1]).atoms)
    assert FingerprintBatch(torch.tensor([1]), torch.ones(1, 1), torch.ones(1, 8)).to("meta").y.is_meta
