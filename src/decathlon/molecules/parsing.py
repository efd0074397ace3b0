"""SMILES to RDKit molecules, with a second, more lenient attempt that is counted and reported."""

from enum import IntEnum

from rdkit import Chem, rdBase


class Status(IntEnum):
    """How a SMILES was read."""

    PARSED = 0
    RELAXED = 1  # only without RDKit's valence check
    FAILED = 2


_ALL_BUT_VALENCE = Chem.SANITIZE_ALL ^ Chem.SANITIZE_PROPERTIES


def parse(smiles: str) -> tuple[Chem.Mol | None, Status]:
    """The molecule of a SMILES, and how it was obtained.

    RDKit rejects atoms with an unusual valence, such as the aluminium complexes of the HIV table. These are read
    with every step of sanitisation but the valence check: ``RELAXED``. What cannot be read then, or has no atom,
    is ``FAILED`` and None.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is not None:
            return (mol, Status.PARSED) if mol.GetNumAtoms() else (None, Status.FAILED)
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
        if mol is None or not mol.GetNumAtoms():
            return None, Status.FAILED
        mol.UpdatePropertyCache(strict=False)
        failed = Chem.SanitizeMol(mol, _ALL_BUT_VALENCE, catchErrors=True)
        if failed != Chem.SANITIZE_NONE:
            return None, Status.FAILED
        mol = Chem.RemoveHs(mol, sanitize=False)
        Chem.AssignStereochemistry(mol, cleanIt=True)
    return mol, Status.RELAXED
