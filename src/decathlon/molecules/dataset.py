"""Molecules with their features: what a data module or a pretraining run cuts batches from."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.graphs.batches import Batch
from decathlon.molecules import features
from decathlon.molecules.batches import FingerprintBatch, GeometryBatch, MoleculeBatch
from decathlon.molecules.packing import PackedFingerprints, PackedGeometries, PackedGraphs
from decathlon.molecules.parallel import WORTH_PROCESSES, featurise
from decathlon.molecules.parsing import Status
from decathlon.molecules.tables import Table
from decathlon.storage import cached_state, digest

log = logging.getLogger(__name__)

INPUTS = ("fingerprint", "graph", "geometry")
FORMAT = 2  # of the features: a new number where the functions of ``features`` give other values than before
FINGERPRINT = {"radius": 2, "bits": 1024}
_KINDS = {
    "fingerprint": (features.fingerprints, FINGERPRINT),
    "graph": (features.graphs, {}),
    "descriptors": (features.descriptors, {}),
    "scaffolds": (features.scaffolds, {}),
}


def cached_features(root: str | Path, kind: str, smiles: Sequence[str], processes: int | None = None) -> dict[str, Any]:
    """Features of molecules, computed once per list of SMILES.

    Args:
        kind: ``fingerprint``, ``graph``, ``descriptors`` or ``scaffolds``.

    Returns:
        The tensors of the function in ``decathlon.molecules.features``; ``scaffolds`` is a list of str.
    """
    function, options = _KINDS[kind]
    key = {"kind": kind, **options, "smiles": digest(smiles), "rdkit": version("rdkit"), "format": FORMAT}

    def make() -> dict[str, Any]:
        if len(smiles) >= WORTH_PROCESSES:
            log.info("computing %s features of %d molecules, once", kind, len(smiles))
        arrays = featurise(function, smiles, processes, **options)
        return {
            name: list(array) if array.dtype == object else torch.from_numpy(array) for name, array in arrays.items()
        }

    return cached_state(root, kind, key, make)


@dataclass
class MoleculeDataset:
    """n molecules ready to be batched.

    Attributes:
        table: SMILES and labels; what cannot be read is left out and counted in ``table.report``.
        packed: their features, in the same order.
    """

    table: Table
    packed: PackedFingerprints | PackedGraphs | PackedGeometries

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def build(cls, root: str | Path, table: Table, inputs: str, processes: int | None = None) -> "MoleculeDataset":
        """Featurise ``table`` (or read the cached features).

        Args:
            root: data folder; the cache is beside the raw data or in the user's cache.
            inputs: ``fingerprint``, ``graph`` or ``geometry``.

        Raises:
            DataError: no molecule can be read, or the table has no geometries.
        """
        if inputs == "geometry":
            if table.geometry is None:
                raise DataError("this dataset has no 3D geometries; choose model=gin, gin_small or fp_mlp")
            return cls(table, table.geometry)
        if not table.smiles:
            raise DataError("this dataset has 3D geometries only, no SMILES; choose model=painn")
        state = cached_features(root, inputs, table.smiles, processes)
        status = state["status"]
        keep = (status != Status.FAILED).nonzero().flatten()
        if len(keep) == 0:
            raise DataError(f"none of the {len(table)} SMILES can be read, for instance {table.smiles[0]!r}")
        packed = (PackedFingerprints if inputs == "fingerprint" else PackedGraphs).from_state(state)
        report = {
            **table.report,
            "unreadable": len(table) - len(keep),
            "without_valence_check": int((status == Status.RELAXED).sum()),
        }
        if len(keep) < len(table):
            table, packed = table.select(keep), packed.select(keep)
        table.report = report
        return cls(table, packed)

    def select(self, rows: Tensor) -> "MoleculeDataset":
        """The molecules at ``rows`` (m,) int64, in that order."""
        return MoleculeDataset(self.table.select(rows), self.packed.select(rows))

    def batch(self, rows: Tensor) -> Batch:
        """The molecules at ``rows`` (m,) int64 as a batch; its ``index`` is ``rows``."""
        y = self.table.y[rows]
        if isinstance(self.packed, PackedFingerprints):
            return FingerprintBatch(rows, y, self.packed.dense(rows))
        if isinstance(self.packed, PackedGraphs):
            return MoleculeBatch(rows, y, **self.packed.cut(rows))
        return GeometryBatch(rows, y, **self.packed.cut(rows))

    def content(self) -> str:
        """A digest of the molecules, their labels, and the features that are computed of them: the key of a cache."""
        packed = self.packed.state() if isinstance(self.packed, PackedGeometries) else None
        return digest(self.table.smiles, self.table.y, packed, version("rdkit"), FORMAT, FINGERPRINT)

    @property
    def spec(self) -> dict[str, Any]:
        """What ``make_encoder`` has to know of the data."""
        if isinstance(self.packed, PackedFingerprints):
            return {"inputs": "fingerprint", "bits": 8 * self.packed.bits.shape[1]}
        return {"inputs": "graph" if isinstance(self.packed, PackedGraphs) else "geometry"}
