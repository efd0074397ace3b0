"""Batches of molecules: what an encoder gets."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from decathlon.graphs.batches import Batch, GraphBatch, owners
from decathlon.molecules.alphabet import BOND_DIRECTIONS, BOND_KINDS, SELF_LOOP


@dataclass
class FingerprintBatch(Batch):
    """Molecules as bit vectors.

    Attributes:
        fingerprints: (B, bits) float32 of 0 and 1.
    """

    fingerprints: Tensor


@dataclass
class MoleculeBatch(GraphBatch):
    """Molecules as graphs: nodes are atoms, edges bonds.

    Attributes:
        atoms: (N, 2) int64, element index (0..117, 118 masked, 119 unknown) and chirality tag (0..2).
        bonds: (E,) int64, 3 * type + direction, 0..11.
    """

    atoms: Tensor
    bonds: Tensor

    @cached_property
    def bond_kinds(self) -> Tensor:
        """(N, 18) float32: how many bonds of each kind, 3 * type + direction, each atom has, its self loop included."""
        n = len(self.atoms)
        counts = torch.bincount(self.owner * BOND_KINDS + self.bonds, minlength=n * BOND_KINDS).view(n, BOND_KINDS)
        counts[:, SELF_LOOP * BOND_DIRECTIONS] += 1
        return counts.float()


@dataclass
class GeometryBatch(Batch):
    """Molecules as atoms in space, N in all.

    Attributes:
        numbers: (N,) int64 atomic numbers. positions: (N, 3) float32 in Ångström. node_starts: (B + 1,) int64.
    """

    numbers: Tensor
    positions: Tensor
    node_starts: Tensor

    @property
    def graph(self) -> Tensor:
        """(N,) int64, the molecule of each atom."""
        return owners(self.node_starts, len(self.numbers))
