"""Small sets of molecules that the tests of this folder share."""

import torch
from torch import Tensor

from decathlon.molecules import features
from decathlon.molecules.batches import GeometryBatch, MoleculeBatch
from decathlon.molecules.packing import PackedGeometries, PackedGraphs
from decathlon.molecules.parallel import featurise

SMILES = [
    "CCO",
    "[Na+].[Cl-]",
    "C",
    "F/C=C/F",
    "N[C@@H](C)C(=O)O",
    "c1ccncc1C#N",
    "CC(=O)Oc1ccccc1C(=O)O",
    "C1CCCCC1",
    "*CC",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
]


def packed_graphs(smiles: list[str] = SMILES) -> PackedGraphs:
    return PackedGraphs.from_state(featurise(features.graphs, smiles))


def graph_batch(rows: list[int] | Tensor, packed: PackedGraphs | None = None) -> MoleculeBatch:
    rows = torch.as_tensor(rows)
    packed = packed or packed_graphs()
    return MoleculeBatch(rows, torch.zeros(len(rows), 1), **packed.cut(rows))


def packed_geometries(counts: list[int], seed: int = 0) -> PackedGeometries:
    """Atoms at random places, about 1.5 Å apart."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(counts)
    numbers = torch.tensor([1, 6, 7, 8, 9])[torch.randint(5, (n,), generator=generator)].to(torch.uint8)
    positions = 2.0 * torch.randn(n, 3, generator=generator)
    return PackedGeometries(numbers, positions, torch.tensor(counts, dtype=torch.int32))


def geometry_batch(packed: PackedGeometries) -> GeometryBatch:
    rows = torch.arange(len(packed))
    return GeometryBatch(rows, torch.zeros(len(rows), 1), **packed.cut(rows))
