"""A CSV file of the user's own, named on the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decathlon.errors import ConfigError
from decathlon.molecules.tables import CsvSource


class CsvFile(CsvSource):
    """One CSV file by its path, with a column of SMILES and columns of labels.

    Args:
        file: its path: from the current folder, or in the data folder.
        smiles: name of the SMILES column.
        labels: names of label columns, or patterns; None: every column but that of the SMILES and of the split.
        task_type, sep, encoding, split_column, classes, unit: as :class:`CsvSource` has them.

    Raises:
        ConfigError: no file or no label is named.
    """

    def __init__(
        self,
        file: str | None,
        smiles: str = "smiles",
        labels: str | Sequence[str] | None = None,
        task_type: str = "classification",
        sep: str = ",",
        encoding: str = "utf-8",
        split_column: str | None = None,
        classes: Mapping[Any, int | None] | None = None,
        unit: str = "",
    ) -> None:
        if not file:
            raise ConfigError("dataset=csv reads a file of yours: file=<path of a CSV>")
        wanted = ["*"] if labels is None else [labels] if isinstance(labels, str) else list(labels)
        if not wanted:
            raise ConfigError("labels=[] names no column; leave it out to take all")
        here = Path(file).expanduser()
        super().__init__(
            [str(here.absolute()) if here.is_file() else str(here)], smiles=[smiles], labels=wanted,
            task_type=task_type, sep=sep, encoding=encoding, split_column=split_column, classes=classes, unit=unit,
        )  # fmt: skip

    def advice(self, key: str, value: str) -> str:
        return f"set {key}=\"'{value}'\""
