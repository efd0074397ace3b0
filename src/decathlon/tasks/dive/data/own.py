"""Graphs of one's own, as torch_geometric's ``Data``, and the benchmark's own files, which are of the same kind."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.errors import ConfigError, DataError
from decathlon.files import find
from decathlon.graphs.packing import PackedGraphs
from decathlon.tasks.dive.backbone import Spec
from decathlon.tasks.dive.data import featurise as features
from decathlon.tasks.dive.data.molecules import cached_molecules, packed_molecules
from decathlon.tasks.dive.data.parts import PARTS, WORDS, Parts
from decathlon.tasks.dive.data.shifts import METRICS, parts_of, task_of
from decathlon.tasks.dive.data.sources import check_split, joined

log = logging.getLogger(__name__)


def load_graphs(path: Path) -> list[Any]:
    """A list of ``Data`` saved with ``torch.save``, or the file of an ``InMemoryDataset``; no code is executed.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    from torch_geometric.data import Data
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.separate import separate
    from torch_geometric.data.storage import GlobalStorage

    if not path.is_file():
        raise DataError(f"path={path}: there is no such file")
    try:
        with torch.serialization.safe_globals([Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types on broken files
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(f"{path} is no file of graphs that can be loaded safely ({reason})") from error
    if isinstance(found, tuple) and len(found) >= 2 and isinstance(found[1], dict):
        whole, slices = found[0], found[1]
        whole = Data.from_dict(whole) if isinstance(whole, dict) else whole
        count = len(slices["y"]) - 1 if "y" in slices else len(next(iter(slices.values()))) - 1
        found = [separate(Data, whole, i, slices, decrement=False) for i in range(count)]
    if not isinstance(found, (list, tuple)) or not found or not all(isinstance(one, Data) for one in found):
        raise DataError(f"{path} must hold a list of torch_geometric Data objects")
    return list(found)


def packed(graphs: list[Any], what: str, keep: Sequence[str] = ()) -> PackedGraphs:
    """Pack ``Data`` with ``x`` (ones where there is none), ``edge_index``, ``edge_attr`` and ``y``.

    Args:
        keep: other attributes of graphs that come along.

    Raises:
        DataError: in one line, a graph cannot be used.
    """
    found = []
    for i, graph in enumerate(graphs):
        try:
            found.append(usable(graph, keep))
        except ValueError as error:
            raise DataError(f"{what}: graph {i} {error}") from error
    try:
        return pack(found, keep)
    except ValueError as error:
        raise DataError(f"{what}: {error}") from error


def usable(graph: Any, keep: Sequence[str] = (), labelled: bool = True) -> Any:
    """A ``Data`` that can be packed with others.

    Args:
        labelled: whether it needs a ``y``; else it gets a zero.

    Raises:
        ValueError: one line that goes on after "graph 3".
    """
    from torch_geometric.data import Data

    edges, nodes, y = graph.edge_index, graph.num_nodes, graph.y if labelled else torch.zeros(1)
    if edges is None or y is None:
        raise ValueError(f"has no {'edge_index' if edges is None else 'label y'}")
    if nodes is None or nodes < 1:
        raise ValueError("has no nodes")
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= nodes):
        raise ValueError(f"has {nodes} nodes, from 0, and an edge to node {int(edges.max())}")
    if len(torch.unique(edges[0] * nodes + edges[1])) != edges.shape[1]:
        raise ValueError("has the same edge twice; torch_geometric's coalesce() merges them")
    x = torch.ones(nodes, 1) if graph.x is None else graph.x
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError("has node features that are no finite numbers")
    one = Data(x=x if x.dim() > 1 else x[:, None], edge_index=edges, y=y.reshape(1, -1).float())
    if graph.edge_attr is not None:
        one.edge_attr = graph.edge_attr if graph.edge_attr.dim() > 1 else graph.edge_attr[:, None]
    for name in keep:
        value = graph.to_dict().get(name)
        if value is None:
            raise ValueError(f"has no {name}")
        one[name] = torch.as_tensor(value).reshape(1, -1)[:, :1]
    if "edge_gt" in graph.to_dict():
        one.edge_gt = graph.edge_gt.bool()
    return one


def pack(graphs: list[Any], keep: Sequence[str] = ()) -> PackedGraphs:
    """Pack what :func:`usable` has returned.

    Raises:
        ValueError: one line, they have not the same attributes.
    """
    from decathlon.graphs.pyg import from_pyg

    return from_pyg(graphs, {"y": "graphs", **{name: "graphs" for name in keep}})


def feature_kinds(graphs: PackedGraphs) -> tuple[int | tuple[int, ...], int | tuple[int, ...]]:
    """How many real features nodes and edges have, or of whole numbers how many values each has."""

    def kind(table: Tensor | None, what: str) -> int | tuple[int, ...]:
        if table is None:
            return 0
        if table.is_floating_point():
            return table.shape[1]
        if len(table) and int(table.min()) < 0:
            raise DataError(f"{what} that are whole numbers are looked up in tables and must not be negative")
        return tuple(int(column.max()) + 1 if len(column) else 1 for column in table.T)

    return kind(graphs.nodes["x"], "node features"), kind(graphs.edges.get("edge_attr"), "edge features")


class Pyg:
    """A saved list of ``Data`` objects with ``y``, and optionally ``x``, ``edge_attr``, ``edge_gt`` and a domain.

    Args:
        shift: ``size`` (number of nodes) or ``column``. split, seed: see ``splits``. path: of the file.
        column: attribute of the graphs, a number, that says what shifts, or which environment a graph is of.
        task: ``binary``, ``multiclass``, ``regression``; None: guessed. metric: None: the task's.
    """

    def __init__(
        self,
        shift: str,
        split: str,
        seed: int = 0,
        path: str | None = None,
        column: str | None = None,
        task: str | None = None,
        metric: str | None = None,
    ) -> None:
        check_split(split, shift, ("size", "column"))
        if path is None:
            raise ConfigError("this dataset needs path=<a saved list of torch_geometric Data>")
        if shift == "column" and column is None:
            raise ConfigError("shift=column needs the name of an attribute of the graphs: dataset.column=")
        self.shift, self.split, self.seed, self.path = shift, split, seed, Path(path)
        self.column, self.task, self.metric = column, task, metric

    def read(self, root: str | Path) -> Parts:
        """The graphs, cut in five."""
        keep = [] if self.column is None else [self.column]
        graphs = packed(load_graphs(self.path), self.path.name, keep)
        column = None if self.column is None else graphs.graphs[self.column][:, 0].tolist()
        values = graphs.node_count.tolist() if self.shift == "size" else column
        return parts_of(
            self.path.name, graphs, feature_kinds(graphs), values, self.split, self.seed, self.task, self.metric, column
        )


class BenchmarkFiles:
    """A dataset of the GOOD project as its loader has processed it, such as GOOD-SST2: five files of graphs.

    Args:
        shift: ``domain``, the folder. split: ``covariate``, ``concept``; ``none`` is ``no_shift``.
        folder: name of the dataset's folder: ``<folder>/<domain>/processed/<split>_<part>.pt`` in the data folder.
        domain: the domain's name. task, metric: as in ``shifts``.
    """

    NAMES = {"train": "train", "id_val": "id_val", "id_test": "id_test", "ood_val": "val", "ood_test": "test"}

    def __init__(
        self, shift: str, split: str, folder: str, domain: str, task: str, metric: str | None = None, seed: int = 0
    ) -> None:
        check_split(split, shift, (domain,))
        self.folder, self.domain, self.split, self.task, self.metric = folder, domain, split, task, metric

    def read(self, root: str | Path) -> Parts:
        """The five files."""
        sets, rows, start = [], {}, 0
        split = "no_shift" if self.split == "none" else self.split
        environments: list[Tensor] = []
        for part in PARTS:
            name = f"{self.folder}/{self.domain}/processed/{split}_{self.NAMES[part]}.pt"
            path = find(root, [name])
            if path is None:
                raise DataError(
                    f"{name} not found in {root}: the {WORDS.get(part, 'training')} set; fetch {self.folder} with the "
                    "GOOD project's loader and put its folder there, it cannot be downloaded"
                )
            graphs = load_graphs(path)
            known = all("env_id" in graph.to_dict() for graph in graphs)
            environments.append(
                torch.tensor([int(graph.env_id) if known else 0 for graph in graphs], dtype=torch.int64)
            )
            one = packed(graphs, path.name)
            one.edges.pop("edge_gt", None)
            sets.append(one)
            rows[part] = torch.arange(start, start + len(one))
            start += len(one)
        whole = joined(sets)
        task, outputs = task_of(whole.graphs["y"], self.task, self.folder)
        environment = torch.cat(environments)
        names = environment[rows["train"]].unique()
        whole.graphs["env"] = torch.searchsorted(names, environment).clamp(max=len(names) - 1)
        count = len(names) if len(names) > 1 else 0
        return Parts(whole, rows, Spec(*feature_kinds(whole), outputs, task, count), self.metric or METRICS[task])


class DrugOod:
    """A dataset of DrugOOD's curator: one JSON file of SMILES with labels, cut in five by domains.

    Atoms and bonds have the features of GOOD's molecules, nine and three, and not the 39 and 10 of DrugOOD's own
    loader.

    Args:
        shift: the domain in the file's name. split: ``covariate``, the only one. file: its name in the data folder.
    """

    NAMES = {"train": "train", "id_val": "iid_val", "id_test": "iid_test", "ood_val": "ood_val", "ood_test": "ood_test"}

    def __init__(self, shift: str, split: str, file: str, domain: str, seed: int = 0) -> None:
        check_split(split, shift, (domain,))
        if split != "covariate":
            raise ConfigError(f"split={split}: DrugOOD's file has one split, covariate")
        self.file_name = file

    def read(self, root: str | Path) -> Parts:
        """The molecules of the file."""
        path = find(root, [self.file_name])
        if path is None:
            raise DataError(f"{self.file_name} not found in {root}; put DrugOOD's file there, it cannot be downloaded")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))["split"]
            rows_of = {part: content[name] for part, name in self.NAMES.items()}
            records = [record for part in PARTS for record in rows_of[part]]
            smiles = [str(record["smiles"]) for record in records]
            y = torch.tensor([[float(record["cls_label"])] for record in records])
            domain = np.array([int(record["domain_id"]) for record in records])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no file of DrugOOD's curator ({type(error).__name__}: {error})") from error
        state = cached_molecules(root, smiles)
        graphs = packed_molecules(state, y)
        ends = np.cumsum([0, *(len(rows_of[part]) for part in PARTS)])
        good = np.asarray(state["status"]) != features.FAILED
        rows = {}
        for part, begin, end in zip(PARTS, ends, ends[1:]):
            rows[part] = torch.from_numpy(np.arange(begin, end)[good[begin:end]])
        if not good.all():
            log.warning("%s: %d SMILES cannot be read and are left out", path.name, int((~good).sum()))
        names, numbers = np.unique(domain[rows["train"].numpy()], return_inverse=True)
        graphs.graphs["env"] = torch.zeros(len(graphs), dtype=torch.int64)
        graphs.graphs["env"][rows["train"]] = torch.from_numpy(numbers.astype(np.int64))
        spec = Spec(features.ATOM_SIZES, features.BOND_SIZES, 1, "binary", len(names))
        return Parts(graphs, rows, spec, "roc_auc")
