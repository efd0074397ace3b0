"""Tables of molecules: SMILES and labels from CSV files, with every malformed row counted."""

import gzip
import io
import logging
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence
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
from decathlon.molecules.packing import PackedGeometries

log = logging.getLogger(__name__)


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
        report: counts of rows by what became of them, for people to read.
    """

    smiles: list[str]
    y: Tensor
    tasks: list[str]
    task_type: str = "classification"
    unit: str = ""
    geometry: PackedGeometries | None = None
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
        smiles: names that the SMILES column may have.
        labels: names of label columns, or patterns such as ``MUV-*``; ``*`` is every column but the SMILES.
            Empty: no labels.
        task_type: ``classification`` or ``regression``.
        max_missing: leave out labels of which at least this share is missing.
        member: path of the CSV inside a zip archive.
        unit: of the labels.
        header: False: the file is a bare list of SMILES, one a line.
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
    ) -> None:
        if task_type not in ("classification", "regression"):
            raise ValueError(f"task_type={task_type!r} is neither classification nor regression")
        self.files = list(files)
        self.url = url
        self.rows = rows
        self.smiles_names = list(smiles)
        self.labels = list(labels)
        self.task_type = task_type
        self.max_missing = max_missing
        self.member = member
        self.unit = unit
        self.header = header

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
        frame, skipped = read_csv(path, self.member, self.header)
        smiles_name = next((name for name in self.smiles_names if name in frame), None)
        if smiles_name is None:
            raise DataError(f"{path} has no column {' or '.join(self.smiles_names)}; its columns: {_some(frame)}")
        tasks = self._tasks(path, list(frame.columns), smiles_name)
        smiles = frame[smiles_name]
        good = (smiles.notna() & (smiles.astype(str).str.strip() != "")).to_numpy(bool)
        y, bad_label = self._values(frame, tasks)
        good = good & ~bad_label
        total = len(frame) + skipped
        report = {"rows": total, "malformed": total - int(good.sum())}
        if not good.any() or report["malformed"] > total / 2:
            raise DataError(f"{path}: {report['malformed']} of {total} rows are malformed; is it the right file?")
        if self.rows is not None and total != self.rows:
            if fresh:
                raise DataError(_reject(path, f"{total} rows, the published table has {self.rows}"))
            log.warning("%s has %d rows, the published table has %d", path.name, total, self.rows)
        texts = smiles[good].astype(str).str.strip().tolist()
        y = y[good]
        table = Table(texts, torch.from_numpy(y), tasks, self.task_type, self.unit, report=report)
        return self._drop_missing(path, table).thin(limit)

    def _tasks(self, path: Path, columns: list[str], smiles_name: str) -> list[str]:
        candidates = [name for name in columns if name != smiles_name]
        if self.labels != ["*"]:
            tasks = [name for name in candidates if any(fnmatchcase(name, label) for label in self.labels)]
            missing = [label for label in self.labels if not any(fnmatchcase(name, label) for name in candidates)]
            if missing:
                raise DataError(f"{path} has no column {missing[0]}; its columns: {_some(columns)}")
            return tasks
        return candidates

    def _values(self, frame: Any, tasks: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Labels (n, T) float32, NaN where empty, and (n,) bool: the row holds a label that is none."""
        import pandas as pd

        y = np.full((len(frame), len(tasks)), np.nan, np.float32)
        bad = np.zeros(len(frame), bool)
        for j, task in enumerate(tasks):
            values = pd.to_numeric(frame[task], errors="coerce").to_numpy(np.float64, na_value=np.nan)
            wrong = (np.isnan(values) & frame[task].notna().to_numpy(bool)) | np.isinf(values)
            if self.task_type == "classification":
                wrong |= ~np.isnan(values) & (values != 0) & (values != 1)
            y[:, j] = values
            bad |= wrong
        return y, bad

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


def read_csv(path: Path, member: str | None = None, header: bool = True) -> tuple[Any, int]:
    """A CSV file as a pandas frame, and how many lines were skipped because they have too many fields.

    Raises:
        DataError: the file is corrupt; names it.
    """
    import pandas as pd

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            content = io.BytesIO(_bytes(path, member))
            names = None if header else ["smiles"]
            frame = pd.read_csv(content, names=names, on_bad_lines="warn", low_memory=False)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} is corrupt ({error}); delete it and fetch it again") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable CSV table ({str(error).splitlines()[0]})") from error
    return frame, sum(len(re.findall("Skipping line", str(warning.message))) for warning in caught)


def _bytes(path: Path, member: str | None) -> bytes:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            content = archive.read(member or archive.namelist()[0])
        return gzip.decompress(content) if (member or "").endswith(".gz") else content
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _reject(path: Path, fault: str) -> str:
    """Set a download aside, so that the next run does not take it for a file of the user's; say so."""
    aside = path.with_name(path.name + ".rejected")
    with suppress(FileNotFoundError):  # another process downloaded and rejected it as well
        path.replace(aside)
    return f"{path.name} was downloaded and has {fault}; it is now {aside}: rename it back to use it as it is"


def _some(columns: Any, most: int = 8) -> str:
    names = [str(name) for name in columns]
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
