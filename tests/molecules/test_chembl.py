"""The embedded dataset, in a small version."""

from pathlib import Path

import pytest
import torch
from rdkit import Chem

from decathlon.molecules.chembl import ChemblAlerts, alerts, originals
from decathlon.molecules.recombine import fragments, recombine


@pytest.fixture(scope="module")
def some_originals() -> list[str]:
    return originals(processes=1, limit=120)


def test_the_originals_are_real_and_different(some_originals: list[str]) -> None:
    assert len(some_originals) > 110 and len(set(some_originals)) == len(some_originals)
    assert some_originals == sorted(some_originals)
    assert all(Chem.CanonSmiles(text) == text for text in some_originals[:20])


def test_fragments_are_the_brics_leaves() -> None:
    (line,) = fragments(["CC(=O)Oc1ccccc1C(=O)NC"])
    from rdkit.Chem import BRICS

    expected = set(BRICS.BRICSDecompose(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)NC"), minFragmentSize=1))
    assert set(line.split()) == expected and len(expected) >= 4
    assert fragments(["CC", "C1CC"]) == ["", ""]


def test_recombined_molecules(some_originals: list[str]) -> None:
    made = recombine(some_originals, 300, seed=0, processes=1)
    assert len(set(made)) == 300 and not set(made) & set(some_originals)
    assert all("*" not in text and "." not in text and Chem.CanonSmiles(text) == text for text in made)
    sizes = [Chem.MolFromSmiles(text).GetNumHeavyAtoms() for text in made]
    assert min(sizes) >= 10 and max(sizes) <= 50
    known = {text for line in fragments(some_originals) for text in line.split()}
    again = {text for line in fragments(made) for text in line.split()}
    assert len(again & known) / len(again) > 0.5  # they are made of the originals' fragments


def test_the_same_for_every_number_of_processes(some_originals: list[str]) -> None:
    one = recombine(some_originals, 40, seed=3, processes=1)
    assert one == recombine(some_originals, 40, seed=3, processes=2)
    assert one != recombine(some_originals, 40, seed=4, processes=1)


def test_alerts_are_rdkits() -> None:
    assert alerts(["CCO", "O=C(Cl)c1ccccc1", "O=Cc1ccccc1"], "NIH") == [False, True, True]


def test_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ChemblAlerts(flip=0.1, processes=1)
    table = source.table(tmp_path, limit=100)
    assert len(table) == len(set(table.smiles)) == 100 and table.y.shape == (100, 1)
    clean = torch.tensor(alerts(table.smiles)).float()
    assert int((table.y[:, 0] != clean).sum()) == table.report["flipped"] == 10
    assert table.report["with_alert"] == int(clean.sum()) > 0
    rest = source.remainder(tmp_path, limit=100)
    assert not set(rest) & set(table.smiles) and len(rest) > 250

    monkeypatch.setattr("decathlon.molecules.chembl.originals", lambda *a: pytest.fail("made again"))
    again = ChemblAlerts(flip=0.1).table(tmp_path, limit=100)
    assert again.smiles == table.smiles and torch.equal(again.y, table.y)
    assert not torch.equal(ChemblAlerts(flip=0.0).table(tmp_path, limit=100).y, table.y)


@pytest.mark.parametrize("options", [{"flip": 0.7}, {"catalogue": "FDA"}, {"labelled": 1}])
def test_bad_options(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ChemblAlerts(**options)
