"""A classifier of graphs for one's own: SMILES or torch_geometric's ``Data`` in, labels and edge masks out."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decathlon import trained
from decathlon.errors import DataError
from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.packing import PackedGraphs
from decathlon.molecules.parallel import featurise
from decathlon.tasks.dive.data import featurise as features
from decathlon.tasks.dive.data.molecules import packed_molecules
from decathlon.tasks.dive.data.own import load_graphs, pack, usable
from decathlon.tasks.dive.loading import Deployed
from decathlon.tasks.dive.loading import load as load_deployed

log = logging.getLogger(__name__)
_NODES = 8192  # of a batch


class Masks(NamedTuple):
    """``edges`` (2, E) of a graph, sorted by target, then source; ``kept`` (m, E): what each member keeps of them."""

    edges: Tensor
    kept: Tensor


class Trained:
    """What a job of task=dive has trained: the member that its validation set has chosen.

    Args:
        deployed: the networks. smiles, labels: names of the columns in the training table.

    Attributes:
        deployed: a module that takes batches; its ``spec`` says what graphs must have. member: which of the ``members``
            it deploys. metric: what it was measured by.
        molecules: whether it reads SMILES.
    """

    def __init__(self, deployed: Deployed, smiles: str = "smiles", labels: Sequence[str] = ("label",)) -> None:
        self.deployed, self.smiles_name = deployed, smiles
        self.member, self.members, self.metric = deployed.member, deployed.method.members, deployed.metric
        spec = deployed.spec
        self.task = spec.task
        self.molecules = spec.nodes == features.ATOM_SIZES and spec.edges == features.BOND_SIZES
        fits = spec.task == "multiclass" or len(labels) == spec.outputs
        self.labels = list(labels) if fits else [f"{labels[0]} {k}" for k in range(spec.outputs)]

    def predict(self, inputs: Sequence[Any]) -> Tensor:
        """(n, C) float64 of n SMILES or ``Data``; NaN, and a warning, for what cannot be read.

        Classes: the probability of each. Binary labels: of class 1. A regression: values in the labels' unit.

        Raises:
            DataError: the model does not read SMILES.
        """
        packed, good, faults = self._read(inputs)
        if faults:
            place, fault = next(iter(faults.items()))
            log.warning("%d of %d inputs cannot be read, the first at %d: %s", len(faults), len(inputs), place, fault)
        return self._spread(packed, good, len(inputs))

    def masks(self, inputs: Sequence[Any]) -> list[Masks | None]:
        """Of each of n SMILES or ``Data`` what every member keeps of its edges; None for what cannot be read.

        Raises:
            ValueError: the method has no masks.
        """
        if not self.deployed.method.has_masks:
            raise ValueError("this method has no masks")
        packed, good, _ = self._read(inputs)
        found: list[Masks | None] = [None] * len(inputs)
        for rows, batch in self._batches(packed, len(good)):
            with torch.no_grad():
                kept = self.deployed.method.masks(batch)
            first_edge = batch.edge_starts[batch.node_starts]
            for row, node, begin, end in zip(rows.tolist(), batch.node_starts, first_edge, first_edge[1:]):
                found[good[row]] = Masks(batch.edge_index[:, begin:end] - node, kept[:, begin:end])
        return found

    def _spread(self, packed: PackedGraphs | None, good: list[int], count: int) -> Tensor:
        found = torch.full((count, self.deployed.spec.outputs), torch.nan, dtype=torch.float64)
        parts = [self.deployed(batch).double() for _, batch in self._batches(packed, len(good))]
        if parts:
            output = torch.cat(parts)
            change = {"multiclass": lambda one: one.softmax(1), "binary": Tensor.sigmoid}.get(self.task)
            found[good] = output if change is None else change(output)
        return found

    @staticmethod
    def _batches(packed: PackedGraphs | None, count: int) -> list[tuple[Tensor, FeatureBatch]]:
        if packed is None:
            return []
        average = float(packed.node_count.float().mean())
        return [(rows, packed.batch(rows)) for rows in torch.arange(count).split(max(1, int(_NODES / average)))]

    def _read(self, inputs: Sequence[Any]) -> tuple[PackedGraphs | None, list[int], dict[int, str]]:
        """The graphs, the places of those that could be read, and of the others what is wrong."""
        texts = [isinstance(one, str) for one in inputs]
        if not any(texts):
            return self._graphs(inputs)
        if not all(texts):
            raise DataError("give SMILES or graphs, not both at a time")
        if not self.molecules:
            raise DataError("this job was trained on graphs that are no molecules: give torch_geometric's Data")
        arrays = featurise(features.molecules, list(inputs))
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        read = state["status"] != features.FAILED
        good = read.nonzero().flatten()
        faults = {place: f"{inputs[place]!r} is no molecule" for place in (~read).nonzero().flatten().tolist()}
        if not len(good):
            return None, [], faults
        return packed_molecules(state, torch.zeros(len(inputs), 1)).select(good), good.tolist(), faults

    def _graphs(self, graphs: Sequence[Any]) -> tuple[PackedGraphs | None, list[int], dict[int, str]]:
        made, good, faults = [], [], {}
        for place, graph in enumerate(graphs):
            try:
                one = usable(graph, labelled=False)
                self._check("node", one.x, self.deployed.spec.nodes)
                if not self.deployed.spec.edges:
                    one.edge_attr = None
                else:
                    self._check("edge", one.edge_attr, self.deployed.spec.edges)
                one.edge_gt = None
            except ValueError as error:
                faults[place] = str(error)
                continue
            made.append(one)
            good.append(place)
        return (pack(made) if made else None), good, faults

    @staticmethod
    def _check(what: str, table: Tensor | None, wanted: int | tuple[int, ...]) -> None:
        width = wanted if isinstance(wanted, int) else len(wanted)
        if table is None:
            raise ValueError(f"has no {what} features; there were {width} in training")
        if table.shape[1] != width:
            raise ValueError(f"has {table.shape[1]} {what} features; there were {width} in training")
        if isinstance(wanted, int):
            if not table.is_floating_point():
                raise ValueError(f"has {what} features that are whole numbers; in training they were real")
            return
        if table.is_floating_point():
            raise ValueError(f"has {what} features that are real numbers; in training they were whole")
        odd = ((table < 0) | (table >= torch.tensor(wanted))).nonzero()
        if len(odd):
            row, column = odd[0].tolist()
            raise ValueError(
                f"has {int(table[row, column])} as {what} feature {column}; training had 0 to {wanted[column] - 1}"
            )

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with a column of SMILES: a column for each label; of classes the likeliest, and each probability."""
        if not rows:
            return []
        if not self.molecules:
            raise DataError(
                "this job was trained on graphs that are no molecules: give a .pt file, a list of torch_geometric Data "
                "that torch.save has written"
            )
        wanted = {self.smiles_name.casefold(), "smiles"}
        name = next((key for key in rows[0] if key.casefold() in wanted), None)
        if name is None:
            raise DataError(f"the table has no column {self.smiles_name}; its columns: {', '.join(rows[0])}")
        return self._answers([row[name] for row in rows])

    def predict_file(self, path: Path) -> list[dict[str, Any] | str]:
        """Of a ``.pt`` file with a list of ``Data``: the same of each graph."""
        return self._answers(load_graphs(path))

    def _answers(self, inputs: Sequence[Any]) -> list[dict[str, Any] | str]:
        packed, good, faults = self._read(inputs)
        values = self._spread(packed, good, len(inputs)).tolist()
        return [faults[place] if place in faults else self._columns(line) for place, line in enumerate(values)]

    def _columns(self, values: list[float]) -> dict[str, Any]:
        if self.task != "multiclass":
            return dict(zip(self.labels, values))
        (label,) = self.labels[:1]
        likeliest = max(range(len(values)), key=values.__getitem__)
        return {label: likeliest, **{f"{label} {k}": value for k, value in enumerate(values)}}


def load(folder: Path, config: Mapping[str, Any]) -> Trained:
    """What ``GraphModule.export`` has written."""
    source = config["dataset"].get("source") or {}
    labels = source.get("label") or "label"
    names = [labels] if isinstance(labels, str) else list(labels)
    return Trained(load_deployed(folder / trained.WEIGHTS), str(source.get("smiles") or "smiles"), names)
