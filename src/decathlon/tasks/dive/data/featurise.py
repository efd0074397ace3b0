"""Molecular graphs with the features of the benchmark: nine numbers of each atom, three of each bond.

Runs in worker processes, so it imports neither torch nor anything that does.
"""

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import BondStereo, BondType, ChiralType, HybridizationType

from decathlon.molecules.parsing import Status, parse

FAILED = int(Status.FAILED)
FORMAT = 2  # a new number where the features change
ATOM_SIZES = (119, 4, 11, 12, 9, 5, 8, 2, 2)
BOND_SIZES = (5, 6, 2)
_CHIRAL = {ChiralType.CHI_UNSPECIFIED: 0, ChiralType.CHI_TETRAHEDRAL_CW: 1, ChiralType.CHI_TETRAHEDRAL_CCW: 2}
_HYBRID = {
    HybridizationType.UNSPECIFIED: 0, HybridizationType.S: 1, HybridizationType.SP: 2, HybridizationType.SP2: 3,
    HybridizationType.SP3: 4, HybridizationType.SP3D: 5, HybridizationType.SP3D2: 6,
}  # fmt: skip
_TYPE = {BondType.SINGLE: 0, BondType.DOUBLE: 1, BondType.TRIPLE: 2, BondType.AROMATIC: 3}
_STEREO = {
    BondStereo.STEREONONE: 0, BondStereo.STEREOZ: 1, BondStereo.STEREOE: 2, BondStereo.STEREOCIS: 3,
    BondStereo.STEREOTRANS: 4, BondStereo.STEREOANY: 5,
}  # fmt: skip


def molecules(smiles: list[str]) -> dict[str, np.ndarray]:
    """Graphs of a chunk of SMILES, hydrogens implicit. What is beyond a feature's range has its last value.

    Returns:
        ``atoms`` (N, 9) uint8: atomic number, chirality, degree with hydrogens, formal charge + 5, hydrogens, radical
        electrons, hybridisation, aromatic, in a ring; ``bonds`` (E, 3) uint8: type, stereo, conjugated, of each
        direction of a bond, which follow each other; ``ends`` (E, 2) int16; ``atom_count``, ``bond_ends``,
        ``large_rings`` (n,) int32: atoms, directions of bonds, and rings of six atoms or more in the smallest set of
        smallest rings; ``status`` (n,).
    """
    atoms: list[tuple[int, ...]] = []
    bonds: list[tuple[int, int, int]] = []
    ends: list[tuple[int, int]] = []
    atom_count, bond_ends, large = (np.zeros(len(smiles), np.int32) for _ in range(3))
    status = np.zeros(len(smiles), np.uint8)
    with rdBase.BlockLogs():
        for i, text in enumerate(smiles):
            mol, status[i] = parse(text)
            if mol is None:
                continue
            atoms += [_atom(atom) for atom in mol.GetAtoms()]
            for bond in mol.GetBonds():
                u, v = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
                ends += [(u, v), (v, u)]
                bonds += [_bond(bond)] * 2
            atom_count[i], bond_ends[i] = mol.GetNumAtoms(), 2 * mol.GetNumBonds()
            large[i] = sum(len(ring) >= 6 for ring in mol.GetRingInfo().AtomRings())
    return {
        "atoms": np.array(atoms, np.uint8).reshape(-1, len(ATOM_SIZES)),
        "bonds": np.array(bonds, np.uint8).reshape(-1, len(BOND_SIZES)),
        "ends": np.array(ends, np.int16).reshape(-1, 2),
        "atom_count": atom_count, "bond_ends": bond_ends, "large_rings": large, "status": status,
    }  # fmt: skip


def _atom(atom: Chem.Atom) -> tuple[int, ...]:
    values = (
        atom.GetAtomicNum(), _CHIRAL.get(atom.GetChiralTag(), 3), atom.GetTotalDegree(), atom.GetFormalCharge() + 5,
        atom.GetTotalNumHs(), atom.GetNumRadicalElectrons(), _HYBRID.get(atom.GetHybridization(), 7),
        int(atom.GetIsAromatic()), int(atom.IsInRing()),
    )  # fmt: skip
    return tuple(min(max(value, 0), size - 1) for value, size in zip(values, ATOM_SIZES))


def _bond(bond: Chem.Bond) -> tuple[int, int, int]:
    return _TYPE.get(bond.GetBondType(), 4), _STEREO.get(bond.GetStereo(), 0), int(bond.GetIsConjugated())
