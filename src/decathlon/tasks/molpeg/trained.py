"""A fine-tuned predictor for one's own molecules: SMILES in, labels out."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon import trained
from decathlon.errors import DataError
from decathlon.molecules import features
from decathlon.molecules.dataset import FINGERPRINT, MoleculeDataset
from decathlon.molecules.packing import PackedFingerprints, PackedGraphs
from decathlon.molecules.parallel import featurise
from decathlon.molecules.parsing import Status
from decathlon.molecules.tables import Table
from decathlon.tasks.molpeg.predictor import Predictor

log = logging.getLogger(__name__)
_BATCH = 1024


class Trained:
    """What a job of task=molpeg has trained.

    Attributes:
        tasks: the T names of the labels. unit: of them, for a regression.
        classification: whether a prediction is the probability of class 1, or else a value in the labels' unit.
        module: encoder and head.
    """

    def __init__(self, state: Mapping[str, Any], smiles_name: str = "smiles") -> None:
        self.tasks, self.unit = list(state["tasks"]), str(state["unit"])
        self.classification: bool = state["mean"] is None
        self.smiles_name = smiles_name
        self._spec, self._mean, self._std = state["spec"], state["mean"], state["std"]
        self.module = Predictor(state["model"], self._spec, len(self.tasks))
        self.module.load_state_dict(state["weights"])
        self.module.eval()

    def predict(self, smiles: Sequence[str]) -> Tensor:
        """(n, T) probabilities or values, float64; NaN, and a warning, for what is no molecule.

        Raises:
            DataError: the model reads 3D geometries, which SMILES do not have.
        """
        found, good = self._answers([str(one) for one in smiles])
        bad = [text for text, read in zip(smiles, good) if not read]
        if bad:
            log.warning("%d of %d SMILES cannot be read, for instance %r", len(bad), len(smiles), bad[0])
        return found

    def _answers(self, smiles: list[str]) -> tuple[Tensor, list[bool]]:
        """(n, T), and which of the SMILES could be read."""
        found = torch.full((len(smiles), len(self.tasks)), torch.nan, dtype=torch.float64)
        molecules, good = self._read(smiles)
        read = [False] * len(smiles)
        for place in good.tolist():
            read[place] = True
        if not len(good):
            return found, read
        parts = []
        with torch.no_grad():
            for rows in good.split(_BATCH):
                parts.append(self.module(molecules.batch(rows)).double())
        output = torch.cat(parts)
        if self.classification:
            found[good] = output.sigmoid()
        else:
            found[good] = output * self._std.double() + self._mean.double()
        return found, read

    def _read(self, smiles: list[str]) -> tuple[MoleculeDataset, Tensor]:
        """The molecules, features computed now, and which of them could be read."""
        kind = self._spec["inputs"]
        if kind == "geometry":
            raise DataError("this model reads 3D geometries, which SMILES do not have")
        function, options = (features.graphs, {}) if kind == "graph" else (features.fingerprints, FINGERPRINT)
        arrays = featurise(function, smiles, None, **options)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        packed = (PackedGraphs if kind == "graph" else PackedFingerprints).from_state(state)
        nothing = torch.full((len(smiles), len(self.tasks)), torch.nan)
        good = (state["status"] != Status.FAILED).nonzero().flatten()
        return MoleculeDataset(Table(smiles, nothing, self.tasks), packed), good

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with a column of SMILES: a column for each label."""
        known = rows[0].keys() if rows else ()
        wanted = {self.smiles_name.casefold(), "smiles"}
        name = next((key for key in known if key.casefold() in wanted), None)
        if rows and name is None:
            raise DataError(f"the table has no column {self.smiles_name}; its columns: {', '.join(known)}")
        smiles = [row[name or ""] for row in rows]
        values, good = self._answers(smiles)
        return [
            dict(zip(self.tasks, line)) if read else f"{text!r} is no molecule"
            for text, line, read in zip(smiles, values.tolist(), good)
        ]


def load(folder: Path, config: Mapping[str, Any]) -> Trained:
    """What ``FineTune.export`` has written."""
    names = config["dataset"]["source"].get("smiles") or "smiles"
    return Trained(trained.state_of(folder), names if isinstance(names, str) else str(names[0]))
