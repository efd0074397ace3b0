"""Where the unlabelled molecules of pretraining come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.molecules.tables import Table

_CSV = "decathlon.molecules.tables.CsvSource"
SOURCES: dict[str, dict[str, Any]] = {
    "chembl": {"class": "decathlon.molecules.chembl.ChemblAlerts"},
    "zinc": {
        "class": _CSV,
        "files": ["250k_rndm_zinc_drugs_clean_3.csv", "zinc_29k.csv.gz"],
        "url": "https://raw.githubusercontent.com/aspuru-guzik-group/chemical_vae/master/models/zinc_properties/"
        "250k_rndm_zinc_drugs_clean_3.csv",
    },
    "zinc15": {
        "class": _CSV,
        "files": ["chem_dataset.zip", "zinc15_2m.csv.gz"],
        "url": "http://snap.stanford.edu/gnn-pretrain/data/chem_dataset.zip",
        "member": "dataset/zinc_standard_agent/processed/smiles.csv",
        "header": False,
        "rows": 2_000_000,
    },
    "pcqm4mv2": {
        "class": _CSV,
        "files": ["pcqm4m-v2.zip"],
        "url": "https://dgl-data.s3-accelerate.amazonaws.com/dataset/OGB-LSC/pcqm4m-v2.zip",
        "member": "pcqm4m-v2/raw/data.csv.gz",
        "rows": 3_746_620,
    },
    "qm9": {
        "class": _CSV,
        "files": ["qm9_targets.csv.gz", "qm9.csv"],
        "url": "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/qm9.csv",
    },
}


def source_table(
    root: str | Path,
    source: str | Mapping[str, Any] | None,
    dataset_source: Any,
    train: Table,
    limit: int | None = None,
    dataset_limit: int | None = None,
) -> Table:
    """The molecules of a pretraining source; labels, where it has any, are to be ignored.

    Args:
        root: data folder.
        source: a key of ``SOURCES``; ``train``, the target's training molecules without their labels; ``remainder``,
            the unlabelled part of the target's dataset; a mapping with the class of a source and its arguments; or
            None: ``remainder`` if there is one, else ``chembl``.
        dataset_source: the source object of the target dataset.
        train: the target's training part.
        limit: at most so many molecules, evenly spaced.
        dataset_limit: the ``limit`` that the target's table was read with, so that its remainder fits to it.

    Raises:
        ConfigError: no such source. DataError: its file is missing or corrupt.
    """
    if source is None:
        source = "remainder" if hasattr(dataset_source, "remainder") else "chembl"
    if source == "train":
        return train.thin(limit)
    if source == "remainder":
        if not hasattr(dataset_source, "remainder"):
            raise ConfigError("pretrain.source=remainder: this dataset has none; choose " + ", ".join(SOURCES))
        return _unlabelled(dataset_source.remainder(root, dataset_limit)).thin(limit)
    if isinstance(source, str):
        if source not in SOURCES:
            raise ConfigError(f"pretrain.source={source} is unknown; choose remainder, train, {', '.join(SOURCES)}")
        source = SOURCES[source]
    built = build(source)
    if hasattr(built, "remainder"):
        smiles = built.table(root, dataset_limit).smiles + built.remainder(root, dataset_limit)
        return _unlabelled(smiles).thin(limit)
    table: Table = built.table(root, limit)
    return table


def _unlabelled(smiles: list[str]) -> Table:
    import torch

    return Table(smiles, torch.zeros(len(smiles), 0), [])
