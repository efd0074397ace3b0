"""SMILES to RDKit molecules, with a second, more lenient attempt that is counted and reported."""

from enum import IntEnum

from rdkit import Chem, rdBase

LARGEST = 2000  # atoms; RDKit's time and memory for a scaffold or a fingerprint grow with their square and more


class Status(IntEnum):
    """How a SMILES was read."""

    PARSED = 0
    RELAXED = 1  # only without RDKit's valence check
    FAILED = 2


_ALL_BUT_VALENCE = Chem.SANITIZE_ALL ^ Chem.SANITIZE_PROPERTIES


def parse(smiles: str) -> tuple[Chem.Mol | None, Status]:
    """The molecule of a SMILES, and how it was obtained.

    RDKit rejects atoms with an unusual valence, such as the aluminium complexes of the HIV table. These are read
    with every step of sanitisation but the valence check: ``RELAXED``. What cannot be read then, has no atom or more
    than ``LARGEST``, is ``FAILED`` and None.
    """
    with rdBase.BlockLogs():
        try:
            mol, status = _parse(smiles)
        except (RuntimeError, ValueError):  # RDKit raises on an element that does not exist: [#119]
            return None, Status.FAILED
    if mol is None or not 0 < mol.GetNumAtoms() <= LARGEST:
        return None, Status.FAILED
    return mol, status


def _parse(smiles: str) -> tuple[Chem.Mol | None, Status]:
    mol = Chem.MolFromSmiles(smiles)
    if mol is not None:
        return mol, Status.PARSED
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None or not 0 < mol.GetNumAtoms() <= LARGEST:
        return None, Status.FAILED
    mol.UpdatePropertyCache(strict=False)
    failed = Chem.SanitizeMol(mol, _ALL_BUT_VALENCE, catchErrors=True)
    if failed != Chem.SANITIZE_NONE:
        return None, Status.FAILED
    mol = Chem.RemoveHs(mol, sanitize=False)
    Chem.AssignStereochemistry(mol, cleanIt=True)
    return mol, Status.RELAXED
