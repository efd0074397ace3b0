"""MovieLens-100K from the wheel."""

import zipfile
from pathlib import Path

import pytest

from decathlon.errors import DataError
from decathlon.recommendation import movielens
from decathlon.recommendation.interactions import compact, core
from decathlon.recommendation.movielens import positives, read_movielens


def test_it_is_read_and_its_core_is_the_known_one(embedded_data: Path) -> None:
    embedded_data.mkdir(parents=True, exist_ok=True)
    try:
        films = read_movielens(embedded_data)
    except DataError as error:
        pytest.skip(str(error))
    assert len(films.rows) == 100_000 and (films.rows.users, films.rows.items) == (943, 1682)
    assert films.titles[0] == "Toy Story" and films.years[0] == "1995" and "Comedy" in films.genres[0]
    assert sum(1 for facts in films.facts if facts) > 1500
    kept, _, _ = compact(core(films.rows.select(positives(films)), 5))
    assert (kept.users, kept.items) == (938, 1008)


def test_without_the_wheel_one_line_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "find_spec", lambda name: None)
    monkeypatch.setattr(movielens, "_REQUIREMENT", "no-such-package-of-decathlon==0")
    with pytest.raises(DataError) as caught:
        read_movielens(tmp_path)
    assert "put it into" in str(caught.value) and "\n" not in str(caught.value)


def test_a_read_only_folder_s_wheel_is_unpacked_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "find_spec", lambda name: None)
    monkeypatch.setenv("DECATHLON_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root"
    root.mkdir()
    with zipfile.ZipFile(root / movielens._WHEEL, "w") as archive:
        for name in movielens._FILES:
            archive.writestr(f"recbole/{movielens._INSIDE}/{name}", "header")
    root.chmod(0o555)
    assert movielens.fetch_movielens(root) == tmp_path / "cache" / "ml-100k"
    assert [path.name for path in root.iterdir()] == [movielens._WHEEL]
    root.chmod(0o755)


def test_a_broken_wheel_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "find_spec", lambda name: None)
    (tmp_path / movielens._WHEEL).write_bytes(b"no archive")
    with pytest.raises(DataError, match="is no intact"):
        read_movielens(tmp_path)
