"""Caches: made once, kept where that is possible, never trusted when broken."""

from pathlib import Path

import pytest
import torch

from decathlon.errors import DataError
from decathlon.molecules.dataset import MoleculeDataset, cached_features
from decathlon.molecules.pretraining.train import _table_digest
from decathlon.molecules.qm9 import Qm9Source
from decathlon.molecules.tables import Table
from decathlon.storage import cached_state, processed_path
from tests.molecules.toy import packed_geometries


@pytest.fixture
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DECATHLON_CACHE", str(tmp_path / "user"))
    return tmp_path / "user"


def test_beside_the_raw_data(tmp_path: Path, user_cache: Path) -> None:
    assert processed_path(tmp_path / "data", "x.pt") == tmp_path / "data" / "processed" / "x.pt"


def test_in_the_users_cache_if_the_data_are_read_only(tmp_path: Path, user_cache: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o555)
    assert processed_path(data, "x.pt") == user_cache / "x.pt"
    assert cached_state(data, "y", {"a": 1}, lambda: {"v": torch.ones(2)})["v"].sum() == 2
    assert len(list(user_cache.glob("y-*.pt"))) == 1 and not (data / "processed").exists()
    data.chmod(0o755)


def test_read_only_data_that_bring_their_cache_along(tmp_path: Path, user_cache: Path) -> None:
    folder = tmp_path / "data" / "processed"
    folder.mkdir(parents=True)
    (folder / "x.pt").touch()
    folder.chmod(0o555)
    assert processed_path(tmp_path / "data", "x.pt") == folder / "x.pt"
    assert processed_path(tmp_path / "data", "z.pt") == user_cache / "z.pt"
    folder.chmod(0o755)


def test_made_once_per_key(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict:
        calls.append(1)
        return {"value": torch.tensor(len(calls)), "text": "abc"}

    for key in ({"a": 1}, {"a": 1}, {"a": 2}):
        state = cached_state(tmp_path, "x", key, make)
    assert len(calls) == 2 and state["value"] == 2 and state["text"] == "abc"


def test_a_broken_cache_is_named(tmp_path: Path) -> None:
    cached_state(tmp_path, "x", {}, lambda: {"v": torch.ones(1)})
    (path,) = tmp_path.glob("processed/x-*.pt")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="delete it") as caught:
        cached_state(tmp_path, "x", {}, lambda: {})
    assert path.name in str(caught.value)


def test_features_are_computed_once_per_list_of_smiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached_features(tmp_path, "fingerprint", ["CCO", "CC"])
    monkeypatch.setattr("decathlon.molecules.dataset.featurise", lambda *a, **k: pytest.fail("computed again"))
    again = cached_features(tmp_path, "fingerprint", ["CCO", "CC"])
    assert torch.equal(first["bits"], again["bits"])
    with pytest.raises(pytest.fail.Exception):
        cached_features(tmp_path, "fingerprint", ["CCO", "CCC"])


def test_unreadable_molecules_are_left_out_and_counted(tmp_path: Path) -> None:
    smiles = ["CCO", "C1CC", "Cc1ccc([B-2]2(c3ccc(C)cc3)=NCCO2)cc1", "CC"]
    table = Table(smiles, torch.arange(4.0)[:, None], ["a"], report={"rows": 4})
    for inputs in ("fingerprint", "graph"):
        dataset = MoleculeDataset.build(tmp_path, table, inputs)
        assert len(dataset) == 3 and dataset.table.y.flatten().tolist() == [0, 2, 3]
        assert dataset.table.report == {"rows": 4, "unreadable": 1, "without_valence_check": 1}
        batch = dataset.batch(torch.tensor([2, 0]))
        assert batch.index.tolist() == [2, 0] and batch.y.flatten().tolist() == [3, 0]
    with pytest.raises(DataError, match="none of the 1 SMILES"):
        MoleculeDataset.build(tmp_path, Table(["C1CC"], torch.ones(1, 1), ["a"]), "graph")
    with pytest.raises(DataError, match="no 3D geometries"):
        MoleculeDataset.build(tmp_path, table, "geometry")


def test_the_content_of_a_dataset(tmp_path: Path) -> None:
    """Sums do not see labels that change places; a digest does."""
    smiles = [f"{'C' * (i + 1)}O" for i in range(20)]
    y = torch.arange(20.0)[:, None] % 2

    def content(smiles: list[str], y: torch.Tensor) -> str:
        return MoleculeDataset.build(tmp_path, Table(smiles, y, ["a"]), "fingerprint").content()

    swapped = y[torch.tensor([1, 0, *range(2, 20)])]
    assert swapped.sum() == y.sum() and content(smiles, swapped) != content(smiles, y) == content(list(smiles), y * 1)
    assert content(smiles[::-1], y) != content(smiles, y) != content(smiles, y.where(y > 0, torch.nan))


@pytest.mark.parametrize("change", ["positions", "numbers", "atom_count"])
def test_geometries_are_known_by_content(change: str) -> None:
    packed = packed_geometries([3, 2])
    tables = [Table([], torch.zeros(2, 1), ["a"], geometry=packed_geometries([3, 2])) for _ in range(2)]
    geometry = tables[1].geometry
    assert geometry is not None
    value = getattr(geometry, change)
    setattr(geometry, change, value.flip(0))  # every sum stays
    assert packed.positions.sum() == pytest.approx(geometry.positions.sum().item(), abs=1e-5)
    assert _table_digest(tables[0]) != _table_digest(tables[1])


def test_the_excluded_molecules_of_qm9_are_part_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qm9.zip").write_bytes(b"zip")
    keys = []
    monkeypatch.setattr("decathlon.molecules.qm9.cached_state", lambda root, name, key, make: keys.append(key) or {})
    for text in ("21 C\n", "58 C\n"):
        (tmp_path / "uncharacterized.txt").write_text(text)
        Qm9Source()._state(tmp_path)
    assert keys[0] != keys[1]
