"""Tables of molecules: SMILES and labels from CSV files, with every malformed row counted."""

import codecs
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.files import find, raw_file
from decathlon.molecules.csv_files import read_csv
from decathlon.molecules.packing import PackedGeometries

log = logging.getLogger(__name__)
_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass
class Table:
    """n molecules and what is known of them.

    Attributes:
        smiles: n SMILES.
        y: (n, T) float32 labels, NaN where unknown.
        tasks: the T names of the labels.
        task_type: ``classification`` (labels 0 and 1) or ``regression``.
        unit: of the labels, for regression.
        geometry: 3D structures, where the source has them.
        parts: the part of a split that each row says it is in: ``train``, ``val`` or ``test``; empty: none says so.
        report: counts of rows by what became of them, for people to read.
    """

    smiles: list[str]
    y: Tensor
    tasks: list[str]
    task_type: str = "classification"
    unit: str = ""
    geometry: PackedGeometries | None = None
    parts: list[str] = field(default_factory=list)
    report: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: Tensor) -> "Table":
        """The rows at positions ``rows`` (m,) int64, in that order."""
        return replace(
            self,
            smiles=[self.smiles[i] for i in rows.tolist()] if self.smiles else [],
            y=self.y[rows],
            geometry=None if self.geometry is None else self.geometry.select(rows),
            parts=[self.parts[i] for i in rows.tolist()] if self.parts else [],
        )

    def thin(self, limit: int | None) -> "Table":
        """At most ``limit`` rows, evenly spaced."""
        if limit is None or limit >= len(self):
            return self
        return self.select(torch.linspace(0, len(self) - 1, limit).round().long())


class CsvSource:
    """A CSV file with a column of SMILES and columns of labels, plain or gzipped, or inside a zip archive.

    Args:
        files: accepted file names, searched in ``root`` and its direct subfolders.
        url: where the file is published; None: it cannot be fetched.
        rows: how many rows the published file has; a download with another number is refused, in a file that was there
            it is reported.
        smiles: names that the SMILES column may have; upper and lower case count only where both occur.
        labels: names of label columns (as ``smiles``), or patterns such as ``MUV-*``; ``*`` is every column but the
            SMILES. Empty: no labels.
        task_type: ``classification`` or ``regression``.
        max_missing: leave out labels of which at least this share is missing.
        member: path of the CSV inside a zip archive.
        unit: of the labels.
        header: False: the file has no header. columns: then the names of its columns; by default it is a bare list of
            SMILES.
        sep: what separates the fields. encoding: of the text.
        classes: of a classification whose labels are written otherwise: what each means, 0, 1, or None for unknown,
            for instance ``{-1: 0, 1: 1}`` or ``{inactive: 0, active: 1, inconclusive: null}``.
        split_column: a column that says ``train``, ``val`` (``valid``, ``validation``) or ``test`` of each row.
    """

    def __init__(
        self,
        files: Sequence[str],
        url: str | None = None,
        rows: int | None = None,
        smiles: Sequence[str] = ("smiles",),
        labels: Sequence[str] = (),
        task_type: str = "classification",
        max_missing: float | None = None,
        member: str | None = None,
        unit: str = "",
        header: bool = True,
        columns: Sequence[str] | None = None,
        sep: str = ",",
        encoding: str = "utf-8",
        classes: Mapping[Any, int | None] | None = None,
        split_column: str | None = None,
    ) -> None:
        if task_type not in ("classification", "regression"):
            raise ValueError(f"task_type={task_type!r} is neither classification nor regression")
        if len(sep) != 1:
            raise ValueError(f"sep={sep!r} is not one character, such as , ; or a tab")
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ValueError(f"encoding={encoding} is unknown; for instance utf-8, utf-16, latin-1") from error
        if classes is not None and task_type == "regression":
            raise ValueError("classes says what the labels of a classification mean; this is a regression")
        odd = [value for value in (classes or {}).values() if value not in (0, 1, None)]
        if odd:
            raise ValueError(f"classes maps a label to {odd[0]}; choose 0, 1 or null")
        self.files = list(files)
        self.url = url
        self.rows = rows
        self.smiles_names = list(smiles)
        self.labels = list(labels)
        self.task_type = task_type
        self.max_missing = max_missing
        self.member = member
        self.unit = unit
        self.columns = list(columns) if columns is not None else None if header else ["smiles"]
        self.sep, self.encoding, self.classes = sep, encoding, dict(classes or {})
        self.split_column = split_column

    def fetch(self, root: str | Path) -> Path:
        """The raw file under ``root``, downloaded if it is not there."""
        return raw_file(root, self.files, self.url)

    def table(self, root: str | Path, limit: int | None = None) -> Table:
        """Read the file.

        Raises:
            DataError: the file is missing, corrupt, or not this kind of table, or was downloaded just now and does not
                have the published number of rows; names the file.
        """
        fresh = find(root, self.files) is None
        path = self.fetch(root)
        frame, skipped = read_csv(path, self.member, self.columns, self.sep, self.encoding)
        columns = list(frame.columns)
        smiles_name = next((found for name in self.smiles_names if (found := _named(columns, name)) is not None), None)
        if smiles_name is None:
            raise DataError(f"{path} has no column {' or '.join(self.smiles_names)}; {self._columns_of(columns)}")
        tasks = self._tasks(path, columns, smiles_name)
        smiles = frame[smiles_name]
        good = (smiles.notna() & (smiles.astype(str).str.strip() != "")).to_numpy(bool)
        y, bad_label, example = self._values(path, frame, tasks)
        good = good & ~bad_label
        total = len(frame) + skipped
        report = {"rows": total, "malformed": total - int(good.sum())}
        if example and report["malformed"] <= total / 2:
            log.warning("%s: %d rows hold a label that is none, for instance %s", path.name, bad_label.sum(), example)
        if not good.any() or report["malformed"] > total / 2:
            hint = f", for instance {example}" if example else ""
            if example and self.task_type == "classification":
                hint += " (what other labels than 0 and 1 mean, a source's classes say)"
            raise DataError(f"{path}: {report['malformed']} of {total} rows are malformed{hint}; is it the right file?")
        if self.rows is not None and total != self.rows:
            if fresh:
                raise DataError(_reject(path, f"{total} rows, the published table has {self.rows}"))
            log.warning("%s has %d rows, the published table has %d", path.name, total, self.rows)
        texts = smiles[good].astype(str).str.strip().tolist()
        y = y[good]
        parts = self._parts(path, frame, good)
        table = Table(texts, torch.from_numpy(y), tasks, self.task_type, self.unit, parts=parts, report=report)
        return self._drop_missing(path, table).thin(limit)

    def advice(self, key: str, value: str) -> str:
        """How to say that an option has another value."""
        return f"give its source {key}: {value!r}"

    def _columns_of(self, columns: list[str]) -> str:
        """The columns of a file in which one is missing, and what the reason may be."""
        text = f"its columns: {_some(columns)}"
        other = next((sep for sep in ";\t|" if len(columns) == 1 and sep in columns[0]), None)
        if other is not None:
            return f"{text}; {self.advice('sep', other)}"
        if self.columns is None and any(_number(name) is not None for name in columns):
            return f"{text}; if it has no header, give its source header: false and columns: [smiles, …]"
        return text

    def _tasks(self, path: Path, columns: list[str], smiles_name: str) -> list[str]:
        split = None if self.split_column is None else _named(columns, self.split_column)
        candidates = [name for name in columns if name not in (smiles_name, split)]
        if self.labels == ["*"]:
            return candidates
        wanted: set[str] = set()
        for label in self.labels:
            exact = _named(candidates, label)
            found = {exact} if exact is not None else {name for name in candidates if fnmatchcase(name, label)}
            found = found or {name for name in candidates if fnmatchcase(name.casefold(), label.casefold())}
            if not found:
                raise DataError(f"{path} has no column {label}; {self._columns_of(columns)}")
            wanted |= found
        return [name for name in candidates if name in wanted]

    def _parts(self, path: Path, frame: Any, good: np.ndarray) -> list[str]:
        """The part of the split of each good row; nothing without a column of them.

        Raises:
            DataError: there is no such column, or it says something else.
        """
        if self.split_column is None:
            return []
        name = _named(list(frame.columns), self.split_column)
        if name is None:
            raise DataError(f"{path} has no column {self.split_column}; {self._columns_of(list(frame.columns))}")
        texts = frame[name][good].astype(str).str.strip().str.lower()
        odd = sorted(set(texts) - set(_PARTS))
        if odd:
            raise DataError(f"{path}: column {name} says {odd[0]}, which is none of {', '.join(_PARTS)}")
        return [_PARTS[text] for text in texts]

    def _values(self, path: Path, frame: Any, tasks: list[str]) -> tuple[np.ndarray, np.ndarray, str]:
        """Labels (n, T) float32, NaN where empty; (n,) bool: the row holds a label that is none; an example of one.

        Raises:
            DataError: a label of a classification is a number other than 0 and 1.
        """
        import pandas as pd

        y = np.full((len(frame), len(tasks)), np.nan, np.float32)
        bad = np.zeros(len(frame), bool)
        example = ""
        for j, task in enumerate(tasks):
            column = frame[task]
            values = np.array(pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan))
            known = column.notna().to_numpy(bool)
            if self.classes:
                known = known & self._rename(column, values)
            wrong = (np.isnan(values) & known) | (np.abs(values) > np.finfo(np.float32).max)
            if self.task_type == "classification":
                other = ~np.isnan(values) & (values != 0) & (values != 1)
                if other.any():
                    raise DataError(
                        f"{path}: the label {values[other][0]:g} of column {task} ({int(other.sum())} rows) is neither "
                        f"0 nor 1; give its source what each label means, for instance classes: "
                        f"{{{values[other][0]:g}: 0, 1: 1}}"
                    )
            if wrong.any() and not example:
                example = f"{task}={column[wrong].iloc[0]}"
            y[:, j] = np.where(wrong, np.nan, values)
            bad |= wrong
        return y, bad, example

    def _rename(self, column: Any, values: np.ndarray) -> np.ndarray:
        """Put what ``classes`` says into ``values`` (n,), in place; (n,) bool: not declared unknown."""
        known = np.ones(len(values), bool)
        written, before = column.astype(str).str.strip(), values.copy()
        for label, meaning in self.classes.items():
            number = _number(label)
            at = (written == str(label)).to_numpy(bool) if number is None else before == number
            values[at] = np.nan if meaning is None else meaning
            if meaning is None:
                known[at] = False
        return known

    def _drop_missing(self, path: Path, table: Table) -> Table:
        if not table.tasks:
            return table
        if self.max_missing is not None:
            frequent = table.y.isnan().float().mean(0) < self.max_missing
            if not frequent.any():
                raise DataError(f"{path}: no label is known for more than {1 - self.max_missing:.0%} of the molecules")
            table.y = table.y[:, frequent]
            table.tasks = [task for task, stays in zip(table.tasks, frequent.tolist()) if stays]
        known = (~table.y.isnan().all(1)).nonzero().flatten()
        table.report["without_label"] = len(table) - len(known)
        if len(known) == 0:
            raise DataError(f"{path}: no row has a label")
        return table if len(known) == len(table) else table.select(known)


def _named(columns: list[str], name: str) -> str | None:
    """The column of that name: as it is written, else the only one that differs by case."""
    if name in columns:
        return name
    alike = [column for column in columns if column.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _reject(path: Path, fault: str) -> str:
    """Set a download aside, so that the next run does not take it for a file of the user's; say so."""
    aside = path.with_name(path.name + ".rejected")
    with suppress(FileNotFoundError):  # another process downloaded and rejected it as well
        path.replace(aside)
    return f"{path.name} was downloaded and has {fault}; it is now {aside}: rename it back to use it as it is"


def _some(columns: Any, most: int = 8) -> str:
    names = [str(name) for name in columns]
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
