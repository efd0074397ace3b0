"""Splits by a property: domains stay whole, sizes are the published ones, labels follow the rules."""

from pathlib import Path

import numpy as np
import pytest
import torch

from decathlon.runner import catalog
from decathlon.tasks.dive.data import splits
from decathlon.tasks.dive.data.featurise import ATOM_SIZES, BOND_SIZES, molecules
from decathlon.tasks.dive.data.molecules import Molecules
from decathlon.tasks.dive.data.parts import PARTS


def sizes(rows: dict[str, torch.Tensor]) -> list[int]:
    return [len(rows[name]) for name in PARTS]


def test_a_walk_moves_cuts_to_the_next_border() -> None:
    domain = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 4])
    assert splits.walk(domain, [2, 5]).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    assert splits.walk(domain, [4, 5]).tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 2, 2]  # one part for each border at most
    assert splits.walk(domain, [9.5]).tolist() == [0] * 10

    def literal(domain: np.ndarray, cuts: list[float]) -> list[int]:
        part, found = 0, []
        for i, name in enumerate(domain):
            if part < len(cuts) and i >= cuts[part] and i > 0 and name != domain[i - 1]:
                part += 1
            found.append(part)
        return found

    rng = np.random.default_rng(0)
    for _ in range(50):
        domain = np.sort(rng.integers(0, 12, 40))
        cuts = np.sort(rng.uniform(0, 40, 3)).tolist()
        assert splits.walk(domain, cuts).tolist() == literal(domain, cuts)


def test_a_few_large_domains_still_make_three_sets() -> None:
    rows, _ = splits.covariate([i // 10 for i in range(60)], 0)
    assert rows["ood_val"].tolist() == list(range(40, 50)) and rows["ood_test"].tolist() == list(range(50, 60))
    rows, _ = splits.covariate([i // 30 for i in range(60)], 0)  # two domains cannot
    assert not len(rows["ood_test"])


@pytest.mark.parametrize("reverse", [False, True])
def test_covariate_sets_hold_different_domains(reverse: bool) -> None:
    values = np.random.default_rng(0).integers(0, 60, 2000)
    rows, environment = splits.covariate(values.tolist(), 0, reverse)
    assert len(torch.cat(list(rows.values())).unique()) == sum(sizes(rows)) == 2000
    pool = torch.cat([rows[name] for name in ("train", "id_val", "id_test")])
    sets = [set(values[part.numpy()].tolist()) for part in (pool, rows["ood_val"], rows["ood_test"])]
    assert not sets[0] & sets[1] and not sets[1] & sets[2] and not sets[0] & sets[2]
    assert (max(sets[2]) < min(sets[0])) == reverse and len(rows["id_val"]) == len(rows["id_test"]) == 200
    assert environment.max() == 9
    for value in sets[0]:  # a domain is of one environment
        assert len(environment[pool][torch.from_numpy(values)[pool] == value].unique()) == 1


def test_concept_turns_the_correlation_of_domain_and_label_round() -> None:
    rng = np.random.default_rng(0)
    values, y = rng.integers(0, 300, 20_000), (rng.random(20_000) < 0.5).astype(float)
    rows, environment = splits.concept(values.tolist(), y, 0)
    assert len(torch.cat(list(rows.values())).unique()) == sum(sizes(rows)) == 20_000
    low = values < 150

    def correlation(part: torch.Tensor) -> float:
        at = part.numpy()
        return float(np.corrcoef(low[at], y[at])[0, 1])

    assert correlation(rows["train"]) > 0.7 and correlation(rows["ood_test"]) < -0.7
    assert set(environment[rows["train"]].tolist()) == {0, 1, 2}
    pool = sum(sizes(rows)[:3])
    assert len(rows["id_val"]) == len(rows["id_test"]) == int(0.15 * pool)


def test_the_centre_waits_for_the_last_pass() -> None:
    y = np.array([0.0, 1, 2] * 200)
    rows, _ = splits.concept(list(range(600)), y, 0, centre="median")
    assert set(y[rows["ood_val"].numpy()].tolist()) >= {1.0}
    taken = torch.cat([rows[name] for name in PARTS if name != "ood_val"]).numpy()
    assert 1.0 not in y[taken]


def test_the_last_of_a_missing_kind_is_taken_too() -> None:
    domain = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    side = np.array([1, -1, -1, 1, 1, 1, 1, -1])
    chosen = np.array([1, 0, 0, 0, 1, 0, 0, 0], bool)
    more = splits._last_of_missing_kind(domain, side, chosen)
    assert more.nonzero()[0].tolist() == [2]


def test_no_shift() -> None:
    rows, _ = splits.no_shift(100, 0)
    assert sizes(rows) == [60, 10, 10, 10, 10]


def test_features_of_known_molecules() -> None:
    state = molecules(
        ["c1ccccc1", "C1CCCC1", "C[N+](C)(C)C", "[Na+].[Cl-]", "F/C=C/F", "not a molecule", "C12CCCCC1CCCC2"]
    )
    assert state["large_rings"].tolist() == [1, 0, 0, 0, 0, 0, 2]
    assert state["atom_count"].tolist() == [6, 5, 5, 2, 4, 0, 10] and state["bond_ends"].tolist()[3] == 0
    assert state["status"].tolist() == [0, 0, 0, 0, 0, 2, 0]
    carbon, nitrogen = state["atoms"][0].tolist(), state["atoms"][12].tolist()
    assert carbon == [6, 0, 3, 5, 1, 0, 3, 1, 1] and nitrogen == [7, 0, 4, 6, 0, 0, 4, 0, 0]
    assert state["bonds"][0].tolist() == [3, 0, 1]
    assert (state["atoms"].max(0) < ATOM_SIZES).all() and (state["bonds"].max(0) < BOND_SIZES).all()
    double = [row for row in state["bonds"].tolist() if row[0] == 1]
    assert double == [[1, 2, 0], [1, 2, 0]]  # E


@pytest.fixture(scope="module")
def files(data_root: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds the raw files and keeps features, of this run or of an earlier one."""
    if data_root is None:
        pytest.skip("no raw files")
    return data_root


def read(root: Path, name: str, shift: str, split: str) -> Molecules:
    spec = {key: value for key, value in catalog.read(f"datasets/dive/{name}")["source"].items() if key != "class"}
    return Molecules(shift=shift, split=split, **spec)


PUBLISHED = {
    ("scaffold", "covariate"): ([24682, 4112, 4112, 4113, 4108], 10),
    ("size", "covariate"): ([26169, 4112, 4112, 2773, 3961], 10),
    ("scaffold", "concept"): ([15209, 3258, 3258, 9365, 10037], 250),
    ("size", "concept"): ([14454, 3096, 3096, 9956, 10525], 250),
}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("shift", "split"), PUBLISHED)
def test_hiv_has_the_published_sizes(files: Path, shift: str, split: str) -> None:
    expected, tolerance = PUBLISHED[shift, split]
    parts = read(files, "hiv", shift, split).read(files)
    assert all(abs(a - b) <= tolerance for a, b in zip(sizes(parts.rows), expected))
    rates = [float(parts.graphs.graphs["y"][parts.rows[name]].mean()) for name in ("train", "ood_val", "ood_test")]
    if split == "covariate":
        assert rates[0] > rates[1] > rates[2]


@pytest.mark.slow
@pytest.mark.data
def test_zinc_labels(files: Path) -> None:
    import pandas as pd

    found = next(files.rglob("zinc_29k.csv.gz"), None)
    if found is None:
        pytest.skip("no ZINC")
    frame = pd.read_csv(found)
    parts = read(files, "zinc_small", "size", "covariate").read(files)
    expected = (frame["logP"] - frame["SAS"] - frame["n_rings_ge6"]).to_numpy(np.float32)
    assert np.allclose(parts.graphs.graphs["y"][:, 0].numpy(), expected, atol=1e-5)
    assert parts.graphs.node_count.tolist() == frame["n_atoms"].tolist()
