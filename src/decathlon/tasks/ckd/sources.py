"""Where catalogues are read from: published files in the data folder, MovieLens, and files of one's own."""

import gzip
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.errors import ConfigError, DataError
from decathlon.files import find, raw_file
from decathlon.recommendation.interactions import Interactions, compact, core, read_interactions
from decathlon.recommendation.movielens import positives, read_movielens
from decathlon.tasks.ckd.catalogue import Catalogue, checked_features


def read_array(path: Path) -> Tensor:
    """An array of a ``.npy`` file, or the one called ``feat`` (else the only one) of a ``.npz`` file.

    Raises:
        DataError: the file is broken or holds something else.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            names = loaded.files
            if "feat" not in names and len(names) != 1:
                raise DataError(f"{path} has the arrays {', '.join(names)}; one, or one called feat, is needed")
            loaded = loaded["feat" if "feat" in names else names[0]]
        if loaded.dtype.kind not in "fiub":
            raise DataError(f"{path} holds {loaded.dtype}, no numbers")
        return torch.from_numpy(np.ascontiguousarray(loaded, dtype=np.float32))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} is no readable array ({str(error).splitlines()[0]})") from error


class Published:
    """A folder of ``interactions.csv.gz`` (user, item, split) and one array of features for each modality.

    Args:
        folder: below the data folder. features: {modality: file}; none for a set without.
        train: another file of training rows (user, item), which replaces those of the split.
    """

    def __init__(self, folder: str, features: Mapping[str, str] | None = None, train: str | None = None) -> None:
        self.folder, self.features, self.train = folder, dict(features or {}), train

    def fetch(self, root: str | Path) -> Path:
        """The file of interactions.

        Raises:
            DataError: one of the files is missing.
        """
        folder = Path(root) / self.folder
        for name in (*self.features.values(), *([self.train] if self.train else [])):
            raw_file(folder, [name])
        return raw_file(folder, ["interactions.csv.gz", "interactions.csv"])

    def read(self, root: str | Path) -> Catalogue:
        """Read all files."""
        path = self.fetch(root)
        table = read_interactions(path, extra=["split"])
        rows, part = table.rows, table.extra["split"]
        if self.train is not None:
            fewer = read_interactions(path.parent / self.train).rows
            held = part > 0
            part = torch.cat([torch.zeros(len(fewer), dtype=torch.int64), part[held]])
            user, item = torch.cat([fewer.user, rows.user[held]]), torch.cat([fewer.item, rows.item[held]])
            rows = Interactions(user, item, rows.users, rows.items)
        features = {}
        for name, file in self.features.items():
            features[name] = checked_features(name, read_array(path.parent / file), rows.items, path.parent / file)
        return Catalogue(rows, features, part, table.user_ids, table.item_ids)


class LatticeFolder:
    """A processed Amazon set as the LATTICE family has it: {train,val,test}.json, image_feat.npy, text_feat.npy.

    Args:
        folder: below the data folder. features: {modality: file}.
    """

    def __init__(self, folder: str, features: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.features = dict(features or {"image": "image_feat.npy", "text": "text_feat.npy"})

    def fetch(self, root: str | Path) -> Path:
        """The training file.

        Raises:
            DataError: one of the files is missing; ``decathlon.tasks.ckd.amazon`` makes them from the public ones.
        """
        folder = Path(root) / self.folder
        for name in ("train.json", "val.json", "test.json", *self.features.values()):
            if not (folder / name).is_file():
                raise DataError(
                    f"{name} not found in {folder}; put the processed set there, or build it from the public files: "
                    f"python -m decathlon.tasks.ckd.amazon --help"
                )
        return folder / "train.json"

    def read(self, root: str | Path) -> Catalogue:
        """Read all files."""
        folder = self.fetch(root).parent
        pairs, parts = [], []
        for part, name in enumerate(("train", "val", "test")):
            path = folder / f"{name}.json"
            try:
                lists = json.loads(path.read_text(encoding="utf-8"))
                found = [(int(user), int(item)) for user, items in lists.items() for item in items]
            except (ValueError, TypeError, AttributeError) as error:
                raise DataError(f"{path} is no mapping of users to lists of items ({error})") from error
            pairs += found
            parts += [part] * len(found)
        features = {name: read_array(folder / file) for name, file in self.features.items()}
        user, item = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()
        items = len(next(iter(features.values()))) if features else int(item.max()) + 1
        rows = Interactions(user, item, int(user.max()) + 1, items)
        checked = {
            name: checked_features(name, values, items, folder / self.features[name])
            for name, values in features.items()
        }
        return Catalogue(rows, checked, torch.tensor(parts))


class MovieLensKG:
    """MovieLens-100K: ratings of 4 and more, 5-core; ``text`` of title, year and genres, ``graph`` of its facts.

    Both are TF-IDF vectors, reduced by a singular value decomposition. A fact counts that two films share at least.

    Args:
        dim: of each modality.
    """

    def __init__(self, dim: int = 128) -> None:
        if dim < 2:
            raise ValueError(f"dim={dim} must be at least 2")
        self.dim = dim

    def read(self, root: str | Path) -> Catalogue:
        """Read, or fetch at the first call."""
        films = read_movielens(root)
        rows, users, items = compact(core(films.rows.select(positives(films)), 5))
        words, facts = [], []
        for number in items.tolist():
            text = f"{films.titles[number]} {films.genres[number]}"
            words.append([*text.lower().split(), f"year:{films.years[number]}"])
            facts.append([f"{relation}|{entity}" for relation, entity in films.facts[number]])
        features = {"text": self._reduce(words, 1), "graph": self._reduce(facts, 2)}
        checked = {name: checked_features(name, values, rows.items, "ml-100k") for name, values in features.items()}
        return Catalogue(rows, checked, None, (users + 1).tolist(), (items + 1).tolist())  # as in the published files

    def _reduce(self, documents: list[list[str]], least: int) -> Tensor:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        weights = TfidfVectorizer(analyzer=lambda document: document, min_df=least).fit_transform(documents)
        reduced = TruncatedSVD(min(self.dim, weights.shape[1] - 1), random_state=0).fit_transform(weights)
        return torch.from_numpy(reduced.astype(np.float32))


class Files:
    """Files of one's own.

    Args:
        interactions: a CSV file with the columns ``user`` and ``item``, and optionally ``split`` (0 training, 1
            validation, 2 test) or ``time``. Looked up here, then in the data folder.
        features: {modality: array file}; row i is item i.
        item_ids: a text file with one item id a line, in the order of the features' rows. Without it item ids are the
            rows' numbers, from 0.
        user, item, time: other names of the columns.
    """

    def __init__(
        self, interactions: str | None = None, features: Mapping[str, str] | None = None, item_ids: str | None = None,
        user: str = "user", item: str = "item", time: str | None = None,
    ) -> None:  # fmt: skip
        if not interactions:
            raise ConfigError("dataset=files needs interactions=<csv> and features={image: <npy>, text: <npy>}")
        if features is not None and not isinstance(features, Mapping):
            raise ConfigError(
                f"features={features} is no mapping of modalities to files: {{image: a.npy, text: b.npy}}"
            )
        self.interactions, self.features, self.item_ids = interactions, dict(features or {}), item_ids
        self.columns = {"user": user, "item": item}
        self.time = time

    @staticmethod
    def _found(root: str | Path, name: str) -> Path:
        path = Path(name).expanduser()
        found = path if path.is_file() else find(root, [name])
        if found is None:
            raise DataError(f"{name} is no file, neither here nor in {root}")
        return found

    def read(self, root: str | Path) -> Catalogue:
        """Read all files."""
        path = self._found(root, self.interactions)
        arrays = {name: (file := self._found(root, value), read_array(file)) for name, value in self.features.items()}
        counts = {len(values) for _, values in arrays.values()}
        if len(counts) > 1:
            sizes = ", ".join(f"{file} has {len(values)}" for file, values in arrays.values())
            raise DataError(f"the features differ in their number of rows (items): {sizes}")
        header = _header(path)
        time = self.time or ("time" if "time" in header else None)
        known = self._known(root, counts)
        extra = ["split"] if "split" in header else []
        table = read_interactions(path, time=time, extra=extra, items=known, **self.columns)
        rows, item_ids = table.rows, table.item_ids
        if counts and known is None:
            rows = self._matched(path, rows, item_ids, counts.pop())
            item_ids = list(range(rows.items))
        for file, values in arrays.values():
            if len(values) != rows.items:
                raise DataError(f"{file} has {len(values)} rows, and {self.item_ids} lists {rows.items} items")
        features = {name: checked_features(name, values, rows.items, file) for name, (file, values) in arrays.items()}
        return Catalogue(rows, features, table.extra.get("split"), table.user_ids, item_ids)

    def _known(self, root: str | Path, counts: set[int]) -> list[str] | None:
        if self.item_ids is None:
            return None
        return [line.strip() for line in self._found(root, self.item_ids).read_text(encoding="utf-8").splitlines()]

    @staticmethod
    def _matched(path: Path, rows: Interactions, names: list[Any], count: int) -> Interactions:
        """The rows with one item for each row of the features."""
        if names and not isinstance(names[0], int):
            raise DataError(
                f"{path}: items are called {names[0]}, ...; give item_ids=<a text file, one id a line, in the order "
                f"of the features' rows>"
            )
        if rows.items > count:
            raise DataError(f"{path}: item id {rows.items - 1} is out of range: the features have {count} rows, from 0")
        return Interactions(rows.user, rows.item, rows.users, count, rows.time, rows.rating)


def _header(path: Path) -> list[str]:
    """The first line's fields; what is wrong with the file is said when it is read."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig") as file
        ):
            return [field.strip().strip('"') for field in file.readline().split(",")]
    except (OSError, UnicodeError, EOFError):
        return []
