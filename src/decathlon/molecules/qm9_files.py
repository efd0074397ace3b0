"""The three forms in which QM9 is published, read into one: flat atoms, counts, and the raw targets."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decathlon.errors import DataError

TARGETS = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
_SYMBOLS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
_QM9PACK = {
    "mu": "Dipole_debye",
    "alpha": "Polarizability_bohr3",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "gap": "HOMO_LUMO_gap_au",
    "r2": "R2_bohr2",
    "zpve": "ZPVE_au",
    "U0": "InternalEnergy_0K_au",
    "U": "InternalEnergy_298K_au",
    "H": "Enthalphy_298K_au",
    "G": "GibbsFreeEnergy_298K_au",
    "Cv": "Heatcapacity_Cv_cal_mol_K",
}
_GDB9 = {"U0": "u0", "U": "u298", "H": "h298", "G": "g298", "Cv": "cv"}


def _state(numbers: Any, positions: Any, counts: Any, targets: dict[str, Any]) -> dict[str, Any]:
    state = {
        "numbers": torch.as_tensor(np.array(numbers, np.uint8)),
        "positions": torch.as_tensor(np.array(positions, np.float32)).reshape(-1, 3),
        "atom_count": torch.as_tensor(np.array(counts, np.int32)),
    }
    n, atoms = len(state["atom_count"]), int(state["atom_count"].sum())
    for name in TARGETS:
        state[name] = torch.as_tensor(np.array(targets[name], np.float64))
    if len(state["numbers"]) != atoms or len(state["positions"]) != atoms or len(state["U0"]) != n:
        raise ValueError(f"{n} molecules of {atoms} atoms, but {len(state['positions'])} positions")
    if not all(state[name].isfinite().all() for name in ("positions", *TARGETS)):
        raise ValueError("it holds values that are no numbers")
    return state


def read_npz(path: Path) -> dict[str, Any]:
    """``N`` atoms per molecule, flat ``Z`` and ``R`` (Ångström), and the targets by name.

    Raises:
        DataError: the file is corrupt; names it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return _state(file["Z"], file["R"], file["N"], {name: file[name] for name in TARGETS})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is corrupt or no QM9 file ({error})") from error


def _coordinates(text: str) -> np.ndarray:
    """A flat array from ``[[x,y,z],…]``, where exponents may be written as in Mathematica: 6.*^-6."""
    return np.array(re.sub(r"[\[\]]", "", text).replace("*^", "e").split(","), np.float32)


def read_qm9pack(path: Path) -> dict[str, Any]:
    """The three tables inside the wheel of the package ``qm9pack`` 1.0.3.

    Raises:
        DataError: the file is corrupt; names it.
    """
    import pandas as pd

    columns = ["Elements", "XYZ_Ang", *_QM9PACK.values()]
    try:
        with zipfile.ZipFile(path) as wheel:
            parts = [
                pd.read_csv(io.BytesIO(wheel.read(f"qm9pack/data/qm9_part{i}.csv")), usecols=columns) for i in (1, 2, 3)
            ]
        frame = pd.concat(parts, ignore_index=True)
        elements = [re.findall("[A-Z]", text) for text in frame["Elements"]]
        numbers = [_SYMBOLS[symbol] for atoms in elements for symbol in atoms]
        positions = np.concatenate([_coordinates(text) for text in frame["XYZ_Ang"]])
        targets = {name: frame[column] for name, column in _QM9PACK.items()}
        return _state(numbers, positions, [len(atoms) for atoms in elements], targets)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is corrupt or not qm9pack 1.0.3 ({error})") from error


def read_sdf(path: Path, excluded: Path) -> dict[str, Any]:
    """``gdb9.sdf`` and ``gdb9.sdf.csv`` inside DeepChem's ``qm9.zip``, without the uncharacterised molecules.

    Args:
        excluded: ``uncharacterized.txt``, a list that begins each line with the 1-based index of a molecule.

    Raises:
        DataError: a file is corrupt; names it.
    """
    import pandas as pd

    drop = {int(match[1]) for match in re.finditer(r"(?m)^\s*(\d+)\s+\S+", excluded.read_text(errors="replace"))}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(name).name: name for name in archive.namelist()}
            frame = pd.read_csv(io.BytesIO(archive.read(members["gdb9.sdf.csv"])))
            blocks = archive.read(members["gdb9.sdf"]).decode().split("$$$$\n")
        blocks = [block for block in blocks if block.strip()]
        if len(blocks) != len(frame):
            raise ValueError(f"{len(blocks)} structures but {len(frame)} rows of targets")
        keep = [i for i in range(len(blocks)) if i + 1 not in drop]
        numbers: list[int] = []
        positions: list[list[float]] = []
        counts = []
        for i in keep:
            lines = blocks[i].split("\n")
            atoms = [line.split() for line in lines[4 : 4 + int(lines[3][:3])]]
            positions += [[float(value) for value in atom[:3]] for atom in atoms]
            numbers += [_SYMBOLS[atom[3]] for atom in atoms]
            counts.append(len(atoms))
        targets = {name: frame[_GDB9.get(name, name)].to_numpy()[keep] for name in TARGETS}
        return _state(numbers, positions, counts, targets)
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is corrupt or not DeepChem's qm9.zip ({error})") from error
