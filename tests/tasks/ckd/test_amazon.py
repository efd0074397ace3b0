"""The recipe of the Amazon sets, on files of their form."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from decathlon.errors import DataError
from decathlon.tasks.ckd.amazon import build, main, sentence
from decathlon.tasks.ckd.sources import LatticeFolder

DIM = 4


def raw(root: Path, users: int = 6, items: int = 9) -> None:
    names = [f"B{i:09d}" for i in range(items)]
    with gzip.open(root / "reviews_Toys_5.json.gz", "wt") as file:
        for u in range(users):
            for k in range(6):
                file.write(json.dumps({"reviewerID": f"U{u}", "asin": names[(u + k) % items]}) + "\n")
        file.write(json.dumps({"reviewerID": "U0", "asin": names[0]}) + "\n")  # reviewed twice: one interaction
    with gzip.open(root / "meta_Toys.json.gz", "wt") as file:
        for i, name in enumerate([*names, "B999999999"]):
            file.write(repr({"asin": name, "title": f"it's {i}", "categories": [["a", "b"]]}) + "\n")
    with (root / "image_features_Toys.b").open("wb") as file:
        for i, name in enumerate(names[1:], 1):  # the first has no image
            file.write(name.encode() + np.full(DIM, i, dtype="<f4").tobytes())


def test_the_recipe(tmp_path: Path) -> None:
    raw(tmp_path)
    seen: list[str] = []

    def encode(texts: object) -> np.ndarray:
        seen.extend(texts)  # type: ignore[arg-type]
        return np.ones((len(seen), 3))

    folder = build(tmp_path, "Toys", encode, image_dim=DIM)
    assert folder == tmp_path / "toys" and seen[4] == "a b it's 4"
    catalogue = LatticeFolder("toys").read(tmp_path)
    assert (catalogue.rows.users, catalogue.rows.items, len(catalogue.rows)) == (6, 9, 36)
    assert [len(part) for part in catalogue.split(None, 0)] == [24, 6, 6]
    images = catalogue.features["image"]
    assert images[3, 0] == 3 and images[0, 0] == np.mean(range(1, 9))


def test_a_sentence_has_the_title_twice_where_there_is_a_brand() -> None:
    record = {"title": "T", "categories": [["a", "b"], ["c"]], "description": "d\n e"}
    assert sentence(record) == "a b c T d e"
    assert sentence({**record, "brand": ""}) == "a b c T T d e"
    assert sentence({}) == ""


def test_missing_and_broken_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"reviews_Toys_5\.json\.gz not found"):
        build(tmp_path, "Toys", lambda texts: np.ones((1, 1)))
    with pytest.raises(SystemExit, match="not found"):
        main(["Toys", str(tmp_path)])
    raw(tmp_path)
    with pytest.raises(DataError, match="its length is no multiple of"):
        build(tmp_path, "Toys", lambda texts: np.ones((len(texts), 1)), image_dim=DIM + 1)
    with gzip.open(tmp_path / "reviews_Toys_5.json.gz", "wt") as file:
        file.write('{"reviewerID": "U0"}\n')
    with pytest.raises(DataError, match="is broken after line 0"):
        build(tmp_path, "Toys", lambda texts: np.ones((len(texts), 1)), image_dim=DIM)
