"""Corpora: where documents come from, and which of them are trained on, validated on and tested on.

A corpus is split by document, never inside one. What identifies its content is its ``key``.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from decathlon import files
from decathlon.errors import ConfigError, DataError
from decathlon.language.docstrings import docstrings, package_version
from decathlon.language.hub import hub_texts
from decathlon.language.texts import UNITS, read_documents, text_files
from decathlon.randomness import generator

SPLITS = ("train", "val", "test")
Splits = dict[str, Iterable[str]]


class Corpus(ABC):
    """Documents in three parts."""

    @abstractmethod
    def key(self, root: str | Path) -> dict[str, Any]:
        """What decides about the content, as plain values. ``root``: the data folder."""

    @abstractmethod
    def splits(self, root: str | Path) -> Splits:
        """The documents of ``train``, ``val`` and ``test``; each may be gone through once.

        Raises:
            DataError: one line, if they cannot be had.
        """


def split_documents(texts: Sequence[str], held_out: float, shuffle: bool) -> Splits:
    """Documents in three parts, of which ``val`` and ``test`` have ``held_out`` each, and one document at least.

    Args:
        shuffle: in a fixed random order; otherwise the first ones are trained on and the last ones tested on.

    Raises:
        DataError: one line, for fewer than three documents.
    """
    if len(texts) < 3:
        raise DataError(f"{len(texts)} documents cannot be split into train, val and test: three at least")
    order: Sequence[int] = range(len(texts))
    if shuffle:
        order = torch.randperm(len(texts), generator=generator("documents")).tolist()
    held = min(max(1, round(held_out * len(texts))), (len(texts) - 1) // 2)
    ordered = [texts[index] for index in order]
    rest = len(texts) - 2 * held
    return {"train": ordered[:rest], "val": ordered[rest : rest + held], "test": ordered[rest + held :]}


class Docstrings(Corpus):
    """The docstrings of installed packages (``docstrings``), shuffled.

    Args:
        packages: by the names that they are imported by, or ``stdlib``. shortest: in characters.
        held_out: share of documents of each of val and test.
    """

    def __init__(self, packages: list[str], shortest: int = 200, held_out: float = 0.05) -> None:
        if not packages:
            raise ConfigError("packages must name one at least, for example stdlib")
        self.packages, self.shortest = [str(package) for package in packages], int(shortest)
        self.held_out = _share(held_out)

    def key(self, root: str | Path) -> dict[str, Any]:
        versions = {package: package_version(package) for package in self.packages}
        python = package_version("stdlib")  # it reads the files
        return {"docstrings": versions, "python": python, "shortest": self.shortest, "held_out": self.held_out}

    def splits(self, root: str | Path) -> Splits:
        return split_documents(docstrings(self.packages, self.shortest), self.held_out, shuffle=True)


class TextFiles(Corpus):
    """Text files: one's own, or raw files of the data folder.

    Args:
        files: a folder, a pattern or a path, or several; split into three parts.
        val_files: documents to hold out, every second one for the test; all of ``files`` are then trained on.
        unit, field: what a document is (see ``read_documents``).
        held_out: share of documents of each of val and test. shuffle: before the split; otherwise the last are held
            out.
        raw: the files are names of raw files, which are looked for in the data folder.
        url, sha256: where the one raw file can be fetched, and its digest.
    """

    def __init__(
        self, files: str | list[str] | None, val_files: str | list[str] | None = None, unit: str | None = None,
        field: str = "text", held_out: float = 0.05, shuffle: bool = True, raw: bool = False, url: str | None = None,
        sha256: str | None = None,
    ) -> None:  # fmt: skip
        if not files:
            raise ConfigError("files=<folder, file or pattern> must say which text: for example files='notes/*.txt'")
        if unit is not None and unit not in UNITS:
            raise ConfigError(f"unit={unit} is unknown; choose {', '.join(UNITS)}")
        self.files, self.val_files = files, val_files
        self.unit, self.field, self.shuffle = unit, str(field), bool(shuffle)
        self.raw, self.url, self.sha256 = bool(raw), url, sha256
        self.held_out = _share(held_out)

    def _paths(self, where: str | list[str], root: str | Path) -> list[Path]:
        if not self.raw:
            return text_files(where)
        names = [where] if isinstance(where, str) else list(where)
        return [files.raw_file(root, [name, f"{name}.gz"], self.url, self.sha256) for name in names]

    def key(self, root: str | Path) -> dict[str, Any]:
        content = {
            name: [files.sha256(path) for path in self._paths(where, root)] if where else None
            for name, where in (("files", self.files), ("val_files", self.val_files))
        }
        options = {"unit": self.unit, "field": self.field, "shuffle": self.shuffle, "held_out": self.held_out}
        return {**content, **options}

    def splits(self, root: str | Path) -> Splits:
        texts = self._read(self.files, root)
        if not self.val_files:
            return split_documents(texts, self.held_out, self.shuffle)
        held = self._read(self.val_files, root)
        if len(held) < 2:
            raise DataError(
                f"{self.val_files} has {len(held)} documents: two at least, one to validate and one to test on"
            )
        return {"train": texts, "val": held[::2], "test": held[1::2]}

    def _read(self, where: str | list[str], root: str | Path) -> list[str]:
        texts = list(read_documents(self._paths(where, root), self.unit, self.field))
        if not texts:
            raise DataError(f"there is no text in {where}")
        return texts


class Hub(Corpus):
    """Texts of a dataset on the Hugging Face hub, of which as many are fetched as a training takes.

    Args:
        hub: its name. config: of it. field: the key of the text.
        train_split, val_split: names of its splits; every second text of the latter is for the test.
        documents: how many texts to train on. val_documents: how many to hold out.
        shuffle_seed: of the stream; None: the hub's order.
    """

    def __init__(
        self, hub: str | None, documents: int, config: str | None = None, field: str = "text",
        train_split: str = "train", val_split: str = "validation", val_documents: int = 20_000,
        shuffle_seed: int | None = 42,
    ) -> None:  # fmt: skip
        if not hub:
            raise ConfigError("hub=<name> must say which dataset of the hub, for example hub=roneneldan/TinyStories")
        if documents < 1 or val_documents < 2:
            raise ConfigError(f"documents={documents} must be at least 1 and val_documents={val_documents} at least 2")
        self.hub, self.config, self.field = str(hub), config, str(field)
        self.train_split, self.val_split = str(train_split), str(val_split)
        self.documents, self.val_documents, self.shuffle_seed = int(documents), int(val_documents), shuffle_seed

    def key(self, root: str | Path) -> dict[str, Any]:
        return dict(vars(self))

    def splits(self, root: str | Path) -> Splits:
        def stream(split: str, count: int) -> Iterable[str]:
            return itertools.islice(hub_texts(self.hub, self.config, split, self.field, self.shuffle_seed), count)

        held = list(stream(self.val_split, self.val_documents))
        if len(held) < 2:
            raise DataError(f"{self.hub} has {len(held)} texts in {self.val_split}: two at least")
        return {"train": stream(self.train_split, self.documents), "val": held[::2], "test": held[1::2]}


def _share(held_out: float) -> float:
    if not 0 < float(held_out) < 0.5:
        raise ConfigError(f"held_out={held_out} must be between 0 and 0.5")
    return float(held_out)
