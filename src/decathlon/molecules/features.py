"""What is computed from a molecule, for a chunk of SMILES at a time, as NumPy arrays.

Each function takes a list of SMILES and returns a dict of arrays with the key ``status`` (one
``decathlon.molecules.parsing.Status`` per SMILES); a SMILES that cannot be read has an empty or zero entry. They
run in worker processes, so this module imports neither torch nor anything that does.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import BondType, Descriptors, rdMolDescriptors
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from decathlon.molecules.alphabet import BOND_DIRECTIONS, UNKNOWN_ATOM
from decathlon.molecules.parsing import Status, parse

Arrays = dict[str, np.ndarray]

_BOND_TYPE = {BondType.SINGLE: 0, BondType.DOUBLE: 1, BondType.TRIPLE: 2, BondType.AROMATIC: 3}
_DIRECTION = {Chem.BondDir.ENDUPRIGHT: 1, Chem.BondDir.ENDDOWNRIGHT: 2}
_CHIRAL = {Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1, Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 2}


def graphs(smiles: list[str]) -> Arrays:
    """Molecular graphs of a chunk, hydrogens implicit, disconnected parts in one graph.

    Returns:
        ``atoms`` (N, 2) uint8: element index (0..117, 119 for a dummy atom) and chirality tag (0..2);
        ``degree`` (N,) uint8: number of bonds of each atom;
        ``neighbours`` (E,) int16: for each atom in turn, the positions of its neighbours inside the molecule;
        ``bonds`` (E,) uint8: 3 * type + direction of those bonds (type 0..3 single, double, triple, aromatic;
        direction 0..2), each bond appears once per end;
        ``atom_count``, ``bond_count`` (n,) int32: atoms, and bond ends, per molecule; ``status`` (n,) uint8.
    """
    atoms: list[tuple[int, int]] = []
    begins: list[int] = []
    ends: list[int] = []
    kinds: list[int] = []
    atom_count = np.zeros(len(smiles), np.int32)
    bond_count = np.zeros(len(smiles), np.int32)
    status = np.zeros(len(smiles), np.uint8)
    for i, text in enumerate(smiles):
        mol, status[i] = parse(text)
        if mol is not None and mol.GetNumBonds() > 255 and max(atom.GetDegree() for atom in mol.GetAtoms()) > 255:
            mol, status[i] = None, Status.FAILED  # ``degree`` holds no more; no chemistry does
        if mol is None:
            continue
        first = len(atoms)
        for atom in mol.GetAtoms():
            number = atom.GetAtomicNum()
            atoms.append((number - 1 if number else UNKNOWN_ATOM, _CHIRAL.get(atom.GetChiralTag(), 0)))
        for bond in mol.GetBonds():
            begins.append(first + bond.GetBeginAtomIdx())
            ends.append(first + bond.GetEndAtomIdx())
            kinds.append(_BOND_TYPE.get(bond.GetBondType(), 0) * BOND_DIRECTIONS + _DIRECTION.get(bond.GetBondDir(), 0))
        atom_count[i] = mol.GetNumAtoms()
        bond_count[i] = 2 * mol.GetNumBonds()
    start = np.repeat(np.cumsum(atom_count) - atom_count, atom_count)
    to = np.array(begins + ends, np.int64)
    source = np.array(ends + begins, np.int64)
    order = np.lexsort((source, to))
    return {
        "atoms": np.array(atoms, np.uint8).reshape(-1, 2),
        "degree": np.bincount(to, minlength=len(atoms)).astype(np.uint8),
        "neighbours": (source - start[to] if len(to) else to)[order].astype(np.int16),
        "bonds": np.array(kinds + kinds, np.uint8)[order],
        "atom_count": atom_count,
        "bond_count": bond_count,
        "status": status,
    }


@cache
def _morgan(radius: int, bits: int) -> Any:
    return GetMorganGenerator(radius=radius, fpSize=bits)


def fingerprints(smiles: list[str], radius: int = 2, bits: int = 1024) -> Arrays:
    """Morgan fingerprints, bit-packed: ``bits`` (n, bits / 8) uint8, most significant bit first, and ``status``."""
    generator = _morgan(radius, bits)
    dense = np.zeros((len(smiles), bits), np.uint8)
    status = np.zeros(len(smiles), np.uint8)
    for i, text in enumerate(smiles):
        mol, status[i] = parse(text)
        if mol is not None:
            try:
                dense[i] = generator.GetFingerprintAsNumPy(mol)
            except (RuntimeError, ValueError):
                status[i] = Status.FAILED
    return {"bits": np.packbits(dense, axis=1), "status": status}


_DESCRIPTORS: dict[str, Callable[[Chem.Mol], float]] = {
    "logp": lambda mol: rdMolDescriptors.CalcCrippenDescriptors(mol)[0],
    "tpsa": rdMolDescriptors.CalcTPSA,
    "donors": rdMolDescriptors.CalcNumHBD,
    "acceptors": rdMolDescriptors.CalcNumHBA,
    "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "rings": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "fraction_sp3": rdMolDescriptors.CalcFractionCSP3,
    "heavy_atoms": Descriptors.HeavyAtomCount,
    "heterocycles": rdMolDescriptors.CalcNumHeterocycles,
    "amides": rdMolDescriptors.CalcNumAmideBonds,
    "labute_asa": rdMolDescriptors.CalcLabuteASA,
}
DESCRIPTOR_NAMES = tuple(_DESCRIPTORS)


def descriptors(smiles: list[str]) -> Arrays:
    """Twelve RDKit descriptors (``DESCRIPTOR_NAMES``): ``values`` (n, 12) float32 and ``status``.

    NaN where a molecule cannot be read, or a descriptor is undefined for it.
    """
    values = np.full((len(smiles), len(_DESCRIPTORS)), np.nan, np.float32)
    status = np.zeros(len(smiles), np.uint8)
    with rdBase.BlockLogs():
        for i, text in enumerate(smiles):
            mol, status[i] = parse(text)
            if mol is None or status[i] != Status.PARSED:
                continue  # a descriptor of a molecule whose valences are wrong is undefined
            for j, function in enumerate(_DESCRIPTORS.values()):
                with suppress(RuntimeError, ValueError):
                    values[i, j] = function(mol)
    values[~np.isfinite(values)] = np.nan
    return {"values": values, "status": status}


def scaffolds(smiles: list[str]) -> Arrays:
    """Bemis-Murcko scaffolds without chirality: ``scaffolds`` (n,) of str, empty for acyclic molecules."""
    names = np.empty(len(smiles), object)
    status = np.zeros(len(smiles), np.uint8)
    with rdBase.BlockLogs():
        for i, text in enumerate(smiles):
            mol, status[i] = parse(text)
            names[i] = "" if mol is None else _scaffold(mol)
    return {"scaffolds": names, "status": status}


def _scaffold(mol: Chem.Mol) -> str:
    try:
        return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)
    except (ValueError, RuntimeError):
        return Chem.MolToSmiles(mol)  # a relaxed molecule whose core RDKit refuses: its own group
