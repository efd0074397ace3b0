"""Molecules from SMILES: GOOD-HIV and GOOD-ZINC rebuilt by the benchmark's rules, and tables of one's own."""

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.errors import ConfigError, DataError
from decathlon.files import raw_file
from decathlon.graphs.packing import PackedGraphs, packed_graphs
from decathlon.molecules.csv_files import read_csv
from decathlon.molecules.dataset import cached_features
from decathlon.molecules.parallel import featurise
from decathlon.storage import cached_state, digest
from decathlon.tasks.dive.data import featurise as features
from decathlon.tasks.dive.data.parts import Parts
from decathlon.tasks.dive.data.shifts import Rules, parts_of
from decathlon.tasks.dive.data.sources import check_split

log = logging.getLogger(__name__)
SHIFTS = ("scaffold", "size", "column")
State = dict[str, Any]


class Molecules:
    """A CSV file of SMILES with labels.

    Args:
        shift: ``scaffold`` (Bemis-Murcko, without chirality), ``size`` (heavy atoms) or ``column``.
        split, seed: see ``splits``.
        files: names of the file, searched in the data folder. url: where it can be fetched. path: a file of one's own.
        smiles: name of the column of SMILES. label: of the labels, one or several; ``zinc`` names the benchmark's label
            logP - SAS - number of rings with six atoms or more, from the columns logP and SAS.
        column: a column that says what shifts, or which environment a molecule is of.
        task: ``binary``, ``multiclass``, ``regression``; None: guessed. metric: None: the task's.
        rules: for each shift the options of the two splits, for instance ``{size: {covariate: {reverse: true}}}``.
        max_rows: use at most so many rows, evenly spaced. rows: how many the published file has.
    """

    def __init__(
        self,
        shift: str,
        split: str,
        seed: int = 0,
        files: Sequence[str] = (),
        url: str | None = None,
        path: str | None = None,
        smiles: str = "smiles",
        label: str | Sequence[str] = "label",
        column: str | None = None,
        task: str | None = None,
        metric: str | None = None,
        rules: Mapping[str, Rules] | None = None,
        max_rows: int | None = None,
        rows: int | None = None,
    ) -> None:
        check_split(split, shift, SHIFTS)
        if shift == "column" and column is None:
            raise ConfigError("shift=column needs the name of a column: dataset.column=")
        if not files and path is None:
            raise ConfigError("this dataset needs path=<your CSV file>")
        self.shift, self.split, self.seed = shift, split, seed
        self.files, self.url, self.path = list(files), url, path
        self.smiles, self.column, self.task, self.metric = smiles, column, task, metric
        self.label = [label] if isinstance(label, str) else list(label)
        self.rules, self.max_rows, self.rows = dict(rules or {}), max_rows, rows
        self._parts: Parts | None = None

    def file(self, root: str | Path) -> Path:
        """The CSV file, fetched if it is not there."""
        if self.path is None:
            return raw_file(root, self.files, self.url)
        if not Path(self.path).is_file():
            raise DataError(f"path={self.path}: there is no such file")
        return Path(self.path)

    def prepare(self, root: str | Path) -> None:
        """Fetch and featurise, once."""
        self.read(root)

    def read(self, root: str | Path) -> Parts:
        """The graphs, cut in five."""
        if self._parts is None:
            self._parts = self._read(root)
        return self._parts

    def _read(self, root: str | Path) -> Parts:
        path = self.file(root)
        smiles, y, column = self._table(path)
        state = cached_molecules(root, smiles)
        readable = np.flatnonzero(np.asarray(state["status"]) != features.FAILED)
        if not len(readable):
            raise DataError(f"{path}: none of the {len(smiles)} SMILES can be read, for instance {smiles[0]!r}")
        if len(readable) < len(smiles):
            log.warning("%s: %d SMILES cannot be read and are left out", path.name, len(smiles) - len(readable))
        if self.label == ["zinc"]:
            y = y[:, :1] - y[:, 1:] - np.asarray(state["large_rings"])[:, None]
        graphs = packed_molecules(state, torch.from_numpy(y.astype(np.float32))).select(torch.from_numpy(readable))
        every = self._values(root, smiles, state, column)
        values = [every[i] for i in readable.tolist()]
        environments = None if column is None else [column[i] for i in readable.tolist()]
        return parts_of(
            path.name, graphs, (features.ATOM_SIZES, features.BOND_SIZES), values, self.split, self.seed, self.task,
            self.metric, environments, self.rules.get(self.shift),
        )  # fmt: skip

    def _values(self, root: str | Path, smiles: list[str], state: State, column: list[Any] | None) -> Sequence[Any]:
        if self.shift == "scaffold":
            return cached_features(root, "scaffolds", smiles)["scaffolds"]
        if self.shift == "size":
            # The benchmark takes the length of the text where RDKit refuses a molecule.
            whole = np.asarray(state["status"]) == 0
            return np.where(whole, np.asarray(state["atom_count"]), [len(text) for text in smiles]).tolist()
        assert column is not None
        return column

    def _table(self, path: Path) -> tuple[list[str], np.ndarray, list[Any] | None]:
        """SMILES, labels (n, T) and the column of the rows that can be used; the others are counted and reported."""
        import pandas as pd

        frame, skipped = read_csv(path)
        if self.rows is not None and len(frame) + skipped != self.rows:
            log.warning("%s has %d rows, the published file has %d", path.name, len(frame) + skipped, self.rows)
        labels = ["logP", "SAS"] if self.label == ["zinc"] else self.label
        for name in [self.smiles, *labels, *([self.column] if self.column is not None else [])]:
            if name not in frame.columns:
                raise DataError(f"{path} has no column {name}; its columns: {', '.join(map(str, frame.columns))}")
        if self.max_rows is not None and self.max_rows < len(frame):
            frame = frame.iloc[np.linspace(0, len(frame) - 1, self.max_rows).round().astype(int)]
        y = np.stack([pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64) for name in labels], 1)
        text = frame[self.smiles]
        bad = (text.isna() | (text.astype(str).str.strip() == "")).to_numpy(bool) | np.isnan(y).all(1)
        for j, name in enumerate(labels):
            bad |= np.isnan(y[:, j]) & frame[name].notna().to_numpy(bool)
        if self.column is not None:
            bad |= frame[self.column].isna().to_numpy(bool)
        total = len(frame) + skipped
        if bad.sum() + skipped > total / 2:
            raise DataError(
                f"{path}: {int(bad.sum()) + skipped} of {total} rows cannot be used (no SMILES, or a label that is no "
                f"number in {', '.join(labels)}); is it the right file?"
            )
        if bad.any() or skipped:
            log.warning("%s: %d of %d rows cannot be used and are left out", path.name, int(bad.sum()) + skipped, total)
        good = frame[~bad]
        column = None if self.column is None else good[self.column].tolist()
        return good[self.smiles].astype(str).str.strip().tolist(), y[~bad], column


def cached_molecules(root: str | Path, smiles: list[str]) -> State:
    """The tensors of ``featurise.molecules``, computed once for each list of SMILES."""
    key = {"smiles": digest(smiles), "rdkit": version("rdkit"), "format": features.FORMAT}

    def make() -> State:
        arrays = featurise(features.molecules, smiles)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    return cached_state(root, "dive-molecules", key, make)


def packed_molecules(state: State, y: Tensor) -> PackedGraphs:
    """Graphs with ``x`` (N, 9) and ``edge_attr`` (E, 3) uint8."""
    return packed_graphs(
        state["atom_count"].long(), state["bond_ends"].long(), state["ends"].long().T.contiguous(),
        {"x": state["atoms"]}, {"edge_attr": state["bonds"]}, {"y": y},
    )  # fmt: skip
