"""QM9 from each of its published forms; methane and the sample have their known energies."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from decathlon.errors import DataError
from decathlon.molecules.qm9 import Qm9Source
from decathlon.molecules.qm9_files import TARGETS

METHANE = {"U0": -40.47893, "U": -40.476062, "H": -40.475117, "G": -40.498597, "zpve": 0.044749}
PLACES = [[0.0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]
NUMBERS = [6, 1, 1, 1, 1]


def arrays(copies: int = 3) -> dict[str, np.ndarray]:
    targets = {name: np.full(copies, METHANE.get(name, 1.5)) for name in TARGETS}
    return {
        "N": np.full(copies, 5, np.uint8),
        "Z": np.array(NUMBERS * copies, np.uint8),
        "R": np.array(PLACES * copies, np.float32),
        **targets,
    }


def npz(folder: Path) -> None:
    np.savez(folder / "qm9_3d_20k.npz", **arrays())


def wheel(folder: Path) -> None:
    columns = (
        "Elements,XYZ_Ang,Dipole_debye,Polarizability_bohr3,HOMO_au,LUMO_au,HOMO_LUMO_gap_au,R2_bohr2,ZPVE_au,"
        "InternalEnergy_0K_au,InternalEnergy_298K_au,Enthalphy_298K_au,GibbsFreeEnergy_298K_au,"
        "Heatcapacity_Cv_cal_mol_K\n"
    )
    places = str(PLACES).replace("0.0,", "0.*^-6,", 1)
    row = f"\"['C','H','H','H','H']\",\"{places}\",1.5,1.5,1.5,1.5,1.5,1.5,0.044749,-40.47893,"
    row += "-40.476062,-40.475117,-40.498597,1.5\n"
    with zipfile.ZipFile(folder / "qm9pack-1.0.3-py3-none-any.whl", "w") as archive:
        for part in (1, 2, 3):
            archive.writestr(f"qm9pack/data/qm9_part{part}.csv", columns + row)


def sdf(folder: Path) -> None:
    atoms = "".join(
        f"{x:10.4f}{y:10.4f}{z:10.4f} {s}   0  0\n" for (x, y, z), s in zip(PLACES, ["C", "H", "H", "H", "H"])
    )
    block = f"gdb\n  tool\n\n  5  0  0  0  0  0  0  0  0  0999 V2000\n{atoms}M  END\n$$$$\n"
    names = ["mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv"]
    values = [1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 0.044749, -40.47893, -40.476062, -40.475117, -40.498597, 1.5]
    text = io.StringIO()
    text.write("mol_id," + ",".join(names) + "\n")
    for i in range(4):
        text.write(f"gdb_{i + 1}," + ",".join(map(str, values)) + "\n")
    with zipfile.ZipFile(folder / "qm9.zip", "w") as archive:
        archive.writestr("gdb9.sdf", block * 4)
        archive.writestr("gdb9.sdf.csv", text.getvalue())
    (folder / "uncharacterized.txt").write_text("3054 GDB9 molecules\n\nIndex Smiles\n    2  C  x\n\n3054 compounds\n")


@pytest.mark.parametrize("form", [npz, wheel, sdf])
def test_methane_from_each_form(tmp_path: Path, form) -> None:
    form(tmp_path)
    for _ in range(2):  # the second time from the cache
        table = Qm9Source("U0").table(tmp_path)
        assert len(table) == 3 and table.task_type == "regression" and table.unit == "eV"
        assert table.y.flatten().tolist() == pytest.approx([-17.172] * 3, abs=1e-3)
    assert table.geometry is not None
    assert table.geometry.numbers.tolist() == NUMBERS * 3
    torch.testing.assert_close(table.geometry.positions[5:10], torch.tensor(PLACES))
    assert Qm9Source("zpve").table(tmp_path).y[0].item() == pytest.approx(0.044749 * 27.211386, abs=1e-5)


def test_the_largest_form_is_preferred(tmp_path: Path) -> None:
    npz(tmp_path)
    np.savez(tmp_path / "qm9_3d.npz", **arrays(7))
    assert len(Qm9Source().table(tmp_path)) == 7
    assert len(Qm9Source().table(tmp_path, limit=4)) == 4


@pytest.mark.parametrize("name", ["qm9_3d_20k.npz", "qm9.zip", "qm9pack-1.0.3-py3-none-any.whl"])
def test_a_corrupt_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "uncharacterized.txt").write_text("1 C\n")
    (tmp_path / name).write_bytes(b"PK\x03\x04 nothing more")
    with pytest.raises(DataError, match=name):
        Qm9Source().table(tmp_path)


def test_inconsistent_arrays_are_an_error(tmp_path: Path) -> None:
    broken = arrays()
    broken["R"] = broken["R"][:-1]
    np.savez(tmp_path / "qm9_3d_20k.npz", **broken)
    with pytest.raises(DataError, match="positions"):
        Qm9Source().table(tmp_path)


def test_an_unknown_target() -> None:
    with pytest.raises(ValueError, match="choose mu"):
        Qm9Source("energy")


@pytest.mark.data
def test_the_sample_of_20_000(data_root: Path | None) -> None:
    if data_root is None or not list(data_root.glob("*/qm9_3d_20k.npz")):
        pytest.skip("needs qm9_3d_20k.npz")
    table = Qm9Source("U0").table(data_root)
    assert len(table) == 20_000
    assert table.y.mean().item() == pytest.approx(-75.98, abs=0.1)
    assert table.y.std().item() == pytest.approx(10.35, abs=0.01)
