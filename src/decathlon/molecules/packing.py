"""A set of molecules as flat tensors; a dataset of 440,000 molecules is some 100 MB."""

from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.graphs.packing import Packed, Structure, offsets, ranges


@dataclass
class PackedFingerprints(Packed):
    """Bit vectors of n molecules: ``bits`` (n, B / 8) uint8, most significant bit first."""

    bits: Tensor

    def __len__(self) -> int:
        return len(self.bits)

    def select(self, rows: Tensor) -> "PackedFingerprints":
        """The molecules at ``rows`` (m,) int64."""
        return PackedFingerprints(self.bits[rows])

    def dense(self, rows: Tensor) -> Tensor:
        """Fingerprints of ``rows`` (m,) as 0 and 1: (m, B) float32."""
        return _BITS_OF_BYTE[self.bits[rows].long()].flatten(1)


_BITS_OF_BYTE = (torch.arange(256)[:, None] >> torch.arange(7, -1, -1) & 1).float()  # (256, 8)


@dataclass
class PackedGraphs(Packed):
    """Molecular graphs of n molecules with N atoms and E bond ends in all.

    Attributes:
        atoms: (N, 2) uint8, element index and chirality tag (``decathlon.molecules.features.graphs``).
        degree: (N,) uint8, bonds of each atom.
        neighbours: (E,) int16, for each atom in turn its neighbours, counted from the molecule's first atom.
        bonds: (E,) uint8, 3 * type + direction of those bonds.
        atom_count: (n,) int32. bond_count: (n,) int32, bond ends, twice the bonds.
    """

    atoms: Tensor
    degree: Tensor
    neighbours: Tensor
    bonds: Tensor
    atom_count: Tensor
    bond_count: Tensor

    def __post_init__(self) -> None:
        self._structure = Structure(self.atom_count, self.bond_count, self.degree, self.neighbours)

    def __len__(self) -> int:
        return len(self.atom_count)

    def cut(self, rows: Tensor) -> dict[str, Tensor]:
        """The tensors of a ``decathlon.molecules.batches.MoleculeBatch`` of the molecules ``rows`` (m,) int64."""
        cut = self._structure.cut(rows)
        return {
            **cut.adjacency(),
            "atoms": self.atoms.index_select(0, cut.nodes).long(),
            "bonds": self.bonds.index_select(0, cut.edges).long(),
        }

    def select(self, rows: Tensor) -> "PackedGraphs":
        """The molecules at ``rows`` (m,) int64."""
        atoms, bonds = self._structure.rows(rows)
        return PackedGraphs(
            self.atoms[atoms], self.degree[atoms], self.neighbours[bonds], self.bonds[bonds],
            self.atom_count[rows], self.bond_count[rows],
        )  # fmt: skip


@dataclass
class PackedGeometries(Packed):
    """3D structures of n molecules with N atoms in all.

    Attributes:
        numbers: (N,) uint8 atomic numbers, hydrogens included.
        positions: (N, 3) float32 coordinates in Ångström.
        atom_count: (n,) int32.
    """

    numbers: Tensor
    positions: Tensor
    atom_count: Tensor

    def __post_init__(self) -> None:
        self._first_atom = offsets(self.atom_count)

    def __len__(self) -> int:
        return len(self.atom_count)

    def cut(self, rows: Tensor) -> dict[str, Tensor]:
        """The tensors of a batch, as in ``decathlon.molecules.batches.GeometryBatch``."""
        atom_count = self.atom_count[rows].long()
        atoms = ranges(self._first_atom[rows], atom_count)
        return {
            "numbers": self.numbers[atoms].long(),
            "positions": self.positions[atoms],
            "node_starts": offsets(atom_count),
        }

    def select(self, rows: Tensor) -> "PackedGeometries":
        """The molecules at ``rows`` (m,) int64."""
        atom_count = self.atom_count[rows]
        atoms = ranges(self._first_atom[rows], atom_count.long())
        return PackedGeometries(self.numbers[atoms], self.positions[atoms], atom_count)
