"""Batches of molecules: what an encoder gets."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from decathlon.molecules.alphabet import BOND_DIRECTIONS, BOND_KINDS, SELF_LOOP


@dataclass
class Batch:
    """B molecules.

    Attributes:
        index: (B,) int64, positions in the set that the batch was cut from.
        y: (B, T) float32 labels, NaN where unknown.
    """

    index: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch on ``device``."""
        return type(self)(
            **{item.name: getattr(self, item.name).to(device, non_blocking=non_blocking) for item in fields(self)}
        )

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return type(self)(**{item.name: getattr(self, item.name).pin_memory() for item in fields(self)})


@dataclass
class FingerprintBatch(Batch):
    """Molecules as bit vectors.

    Attributes:
        fingerprints: (B, bits) float32 of 0 and 1.
    """

    fingerprints: Tensor


@dataclass
class GraphBatch(Batch):
    """Molecules as graphs with N atoms and E bond ends in all.

    The neighbours of atom v are ``neighbours[bond_starts[v]:bond_starts[v + 1]]``: a CSR adjacency matrix that is
    symmetric. Molecule b consists of the atoms ``atom_starts[b]`` to ``atom_starts[b + 1]``.

    Attributes:
        atoms: (N, 2) int64, element index (0..117, 118 masked, 119 unknown) and chirality tag (0..2).
        neighbours: (E,) int64 positions in the batch.
        bonds: (E,) int64, 3 * type + direction, 0..11.
        bond_starts: (N + 1,) int64. atom_starts: (B + 1,) int64.
    """

    atoms: Tensor
    neighbours: Tensor
    bonds: Tensor
    bond_starts: Tensor
    atom_starts: Tensor

    @property
    def owner(self) -> Tensor:
        """(E,) int64, the atom whose neighbour each entry of ``neighbours`` is."""
        atoms = torch.arange(len(self.atoms), device=self.atoms.device)
        return torch.repeat_interleave(atoms, self.bond_starts.diff(), output_size=len(self.neighbours))

    @cached_property
    def bond_kinds(self) -> Tensor:
        """(N, 18) float32: how many bonds of each kind, 3 * type + direction, each atom has, its self loop included."""
        n = len(self.atoms)
        counts = torch.bincount(self.owner * BOND_KINDS + self.bonds, minlength=n * BOND_KINDS).view(n, BOND_KINDS)
        counts[:, SELF_LOOP * BOND_DIRECTIONS] += 1
        return counts.float()

    @property
    def edge_index(self) -> Tensor:
        """(2, E) int64, source and target atoms, as in torch_geometric."""
        return torch.stack([self.neighbours, self.owner])

    @property
    def molecule(self) -> Tensor:
        """(N,) int64, the molecule of each atom."""
        molecules = torch.arange(len(self), device=self.atoms.device)
        return torch.repeat_interleave(molecules, self.atom_starts.diff(), output_size=len(self.atoms))


@dataclass
class GeometryBatch(Batch):
    """Molecules as atoms in space, N in all.

    Attributes:
        numbers: (N,) int64 atomic numbers. positions: (N, 3) float32 in Ångström. atom_starts: (B + 1,) int64.
    """

    numbers: Tensor
    positions: Tensor
    atom_starts: Tensor

    @property
    def molecule(self) -> Tensor:
        """(N,) int64, the molecule of each atom."""
        molecules = torch.arange(len(self), device=self.numbers.device)
        return torch.repeat_interleave(molecules, self.atom_starts.diff(), output_size=len(self.numbers))
