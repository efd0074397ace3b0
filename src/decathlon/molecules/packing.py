"""A whole dataset as flat tensors, from which a batch is cut by a few vectorised gathers.

Variable-sized records (the atoms of a molecule, its bonds) lie one after the other in one tensor; ``starts`` says
where each begins. There is no object per molecule, so a batch costs a handful of tensor operations instead of
hundreds of Python calls, and a dataset of 440,000 molecules is some 100 MB.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor


def offsets(counts: Tensor) -> Tensor:
    """Where each of m consecutive records begins, and where the last ends: (m,) counts to (m + 1,) int64."""
    return torch.nn.functional.pad(counts.long().cumsum(0), (1, 0))


def ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """The positions starts[0], starts[0]+1, … (counts[0] of them), starts[1], …: (sum of counts,) int64."""
    total = int(counts.sum())
    shift = starts - (counts.cumsum(0) - counts)
    return torch.arange(total) + torch.repeat_interleave(shift, counts, output_size=total)


class Packed:
    """A dataset of tensors that can be saved, loaded and cut by row."""

    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The dataset of ``state()``; other keys are ignored."""
        return cls(**{item.name: torch.as_tensor(state[item.name]) for item in fields(cls)})  # type: ignore[arg-type]


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
        self._first_atom = offsets(self.atom_count)
        self._first_bond = offsets(self.bond_count)

    def __len__(self) -> int:
        return len(self.atom_count)

    def cut(self, rows: Tensor) -> dict[str, Tensor]:
        """The tensors of a batch of molecules ``rows`` (m,) int64, as in ``decathlon.molecules.batches.GraphBatch``."""
        atom_count = self.atom_count[rows].long()
        bond_count = self.bond_count[rows].long()
        atoms = ranges(self._first_atom[rows], atom_count)
        bonds = ranges(self._first_bond[rows], bond_count)
        first = atom_count.cumsum(0) - atom_count
        neighbours = self.neighbours[bonds].long()
        neighbours += torch.repeat_interleave(first, bond_count, output_size=len(bonds))
        return {
            "atoms": self.atoms[atoms].long(),
            "neighbours": neighbours,
            "bonds": self.bonds[bonds].long(),
            "bond_starts": offsets(self.degree[atoms]),
            "atom_starts": offsets(atom_count),
        }

    def select(self, rows: Tensor) -> "PackedGraphs":
        """The molecules at ``rows`` (m,) int64."""
        atom_count, bond_count = self.atom_count[rows], self.bond_count[rows]
        atoms = ranges(self._first_atom[rows], atom_count.long())
        bonds = ranges(self._first_bond[rows], bond_count.long())
        return PackedGraphs(
            self.atoms[atoms], self.degree[atoms], self.neighbours[bonds], self.bonds[bonds], atom_count, bond_count
        )


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
            "atom_starts": offsets(atom_count),
        }

    def select(self, rows: Tensor) -> "PackedGeometries":
        """The molecules at ``rows`` (m,) int64."""
        atom_count = self.atom_count[rows]
        atoms = ranges(self._first_atom[rows], atom_count.long())
        return PackedGeometries(self.numbers[atoms], self.positions[atoms], atom_count)


def pairs_within(atom_starts: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different atoms of one molecule, for a batch of molecules.

    Args:
        atom_starts: (m + 1,) int64.

    Returns:
        Two (P,) int64 tensors of positions in the batch; the first is ascending.
    """
    count = atom_starts.diff()
    per_atom = torch.repeat_interleave(count, count)
    first_of_mine = torch.repeat_interleave(atom_starts[:-1], count)
    i = torch.repeat_interleave(torch.arange(len(per_atom), device=count.device), per_atom)
    begin = per_atom.cumsum(0) - per_atom
    j = torch.arange(len(i), device=count.device) - begin[i] + first_of_mine[i]
    other = i != j
    return i[other], j[other]
