"""Parsing and featurising of SMILES, against a plain reading of the RDKit molecule."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import BondType

from decathlon.molecules import features
from decathlon.molecules.parallel import featurise, map_chunks
from decathlon.molecules.parsing import Status, parse

SMILES = [
    "CCO",
    "[Na+].[Cl-]",  # disconnected, without bonds
    "C",  # one atom
    "F/C=C/F",  # directions
    "N[C@@H](C)C(=O)O",  # chirality
    "c1ccncc1C#N",
    "Cc1ccc([B-2]2(c3ccc(C)cc3)=NCCO2)cc1",  # RDKit rejects its valences; in the HIV table
    "*CC",
    "C1CC",  # no molecule
    "",
]


def naive(smiles: str) -> tuple[list[tuple[int, int]], list[list[tuple[int, int]]]]:
    """Atoms, and for each atom its (neighbour, kind) pairs, sorted; read one by one."""
    mol, _ = parse(smiles)
    if mol is None:
        return [], []
    types = {BondType.SINGLE: 0, BondType.DOUBLE: 1, BondType.TRIPLE: 2, BondType.AROMATIC: 3}
    directions = {Chem.BondDir.NONE: 0, Chem.BondDir.ENDUPRIGHT: 1, Chem.BondDir.ENDDOWNRIGHT: 2}
    tags = {Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1, Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 2}
    atoms = [
        (atom.GetAtomicNum() - 1 if atom.GetAtomicNum() else 119, tags.get(atom.GetChiralTag(), 0))
        for atom in mol.GetAtoms()
    ]
    neighbours = [
        sorted(
            (bond.GetOtherAtomIdx(atom.GetIdx()), 3 * types[bond.GetBondType()] + directions[bond.GetBondDir()])
            for bond in atom.GetBonds()
        )
        for atom in mol.GetAtoms()
    ]
    return atoms, neighbours


def test_status_tells_how_a_smiles_was_read() -> None:
    assert [parse(text)[1] for text in SMILES] == [Status.PARSED] * 6 + [Status.RELAXED, Status.PARSED] + [
        Status.FAILED
    ] * 2


@pytest.mark.parametrize(
    "odd", ["[#119]", "[#200]", "C" * 40_000, "[Fe]" + "(C)" * 300, "C>>C", "C\0C", "CC(", "not a molecule"]
)
def test_one_odd_smiles_does_not_end_a_run(odd: str) -> None:
    """An element that does not exist, more atoms than positions can count, more bonds than a degree can."""
    with_it = features.graphs(["CCO", odd, "CC"])
    assert with_it["atom_count"].tolist()[::2] == [3, 2] and with_it["status"].tolist()[::2] == [0, 0]
    assert with_it["neighbours"].min() >= 0 and with_it["degree"].sum() == len(with_it["neighbours"])
    if not odd.startswith("[Fe]"):
        assert with_it["status"][1] == Status.FAILED and with_it["atom_count"][1] == 0
    for kind in (features.fingerprints, features.descriptors, features.scaffolds):
        assert kind(["CCO", odd])["status"][0] == Status.PARSED


def test_graphs_equal_a_plain_reading() -> None:
    found = features.graphs(SMILES)
    atom, bond = 0, 0
    for i, smiles in enumerate(SMILES):
        atoms, neighbours = naive(smiles)
        assert found["atom_count"][i] == len(atoms)
        assert found["bond_count"][i] == sum(map(len, neighbours))
        for features_of_atom, around in zip(atoms, neighbours):
            assert tuple(found["atoms"][atom]) == features_of_atom
            assert found["degree"][atom] == len(around)
            part = slice(bond, bond + len(around))
            assert list(zip(found["neighbours"][part], found["bonds"][part])) == around
            atom, bond = atom + 1, bond + len(around)
    assert atom == len(found["atoms"]) and bond == len(found["bonds"])


def test_fingerprints_are_the_packed_morgan_bits() -> None:
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    found = features.fingerprints(SMILES)
    assert found["bits"].shape == (len(SMILES), 128) and found["bits"].dtype == np.uint8
    for smiles, bits in zip(SMILES[:6], found["bits"]):
        expected = np.zeros(1024, np.uint8)
        expected[list(generator.GetFingerprint(Chem.MolFromSmiles(smiles)).GetOnBits())] = 1
        assert (np.unpackbits(bits) == expected).all()
    assert not found["bits"][-1].any()


def test_descriptors_of_known_molecules() -> None:
    values = features.descriptors(["CCO", "c1ccccc1", "CC(=O)NC", "C1CC"])["values"]
    column = {name: values[:, i] for i, name in enumerate(features.DESCRIPTOR_NAMES)}
    assert len(column) == 12
    assert column["donors"][:3].tolist() == [1, 0, 1]
    assert column["aromatic_rings"][:3].tolist() == [0, 1, 0]
    assert column["heavy_atoms"][:3].tolist() == [3, 6, 5]
    assert column["amides"][:3].tolist() == [0, 0, 1]
    assert column["fraction_sp3"][:2].tolist() == [1, 0]
    assert column["tpsa"][0] == pytest.approx(20.23, abs=0.01)
    assert np.isnan(values[3]).all()


def test_scaffolds() -> None:
    found = features.scaffolds(["Cc1ccccc1", "CCc1ccccc1", "CCO", "C1CC"])["scaffolds"]
    assert found.tolist() == ["c1ccccc1", "c1ccccc1", "", ""]


@pytest.mark.parametrize("kind", ["graphs", "fingerprints", "descriptors", "scaffolds"])
def test_results_do_not_depend_on_processes(kind: str) -> None:
    smiles = ["C" * (1 + i % 7) + "O" * (i % 3) for i in range(2500)]
    one = featurise(getattr(features, kind), smiles, processes=1)
    two = featurise(getattr(features, kind), smiles, processes=2)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert len(one["status"]) == 2500


def test_chunks_keep_their_order_and_nothing_is_something() -> None:
    assert [x for part in map_chunks(list, range(2345), processes=1) for x in part] == list(range(2345))
    empty = featurise(features.graphs, [])
    assert len(empty["status"]) == 0 and empty["atoms"].shape == (0, 2)
