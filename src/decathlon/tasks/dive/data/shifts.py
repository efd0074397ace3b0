"""From graphs and a property of each to five parts."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.errors import ConfigError, DataError
from decathlon.graphs.packing import PackedGraphs
from decathlon.tasks.dive.backbone import Spec
from decathlon.tasks.dive.data import splits
from decathlon.tasks.dive.data.parts import Parts

log = logging.getLogger(__name__)
METRICS = {"multiclass": "accuracy", "binary": "roc_auc", "regression": "mae"}
Rules = dict[str, Any]


def task_of(y: Tensor, task: str | None, what: str) -> tuple[str, int]:
    """The kind of task, and how many outputs it has; guessed from labels (n, T) where ``task`` is None.

    0 and 1 are classes of a binary task, more whole numbers from 0 on of a multi-class one.

    Raises:
        DataError: the labels are not of that kind, or of none that can be guessed.
    """
    known = y[~y.isnan()]
    whole = bool((known == known.round()).all()) and len(known) > 0 and float(known.min()) >= 0
    zero_one = whole and float(known.max()) <= 1
    if task is None:
        if not whole or (not zero_one and (y.shape[1] > 1 or float(known.max()) > 50)):
            raise DataError(
                f"{what}: the labels are neither 0 and 1 nor the numbers of a few classes; "
                "say what they are: dataset.task=regression, binary or multiclass"
            )
        task = "binary" if zero_one else "multiclass"
    if task not in METRICS:
        raise ConfigError(f"dataset.task={task} is unknown; choose {', '.join(METRICS)}")
    if task == "binary" and not zero_one:
        raise DataError(f"{what}: the labels of a binary task must be 0 and 1; there is {_odd(known, 1)}")
    if task == "multiclass" and (not whole or y.shape[1] != 1 or bool(y.isnan().any())):
        raise DataError(f"{what}: classes must be whole numbers from 0 on in one column, none missing")
    return task, int(known.max()) + 1 if task == "multiclass" else y.shape[1]


def _odd(known: Tensor, most: int) -> float:
    odd = known[(known != known.round()) | (known < 0) | (known > most)]
    return float(odd[0]) if len(odd) else float("nan")


def parts_of(
    what: str,
    graphs: PackedGraphs,
    features: tuple[int | tuple[int, ...], int | tuple[int, ...]],
    values: Sequence[Any] | None,
    split: str,
    seed: int,
    task: str | None = None,
    metric: str | None = None,
    environments: Sequence[Any] | None = None,
    rules: Rules | None = None,
) -> Parts:
    """Cut a set of graphs in five.

    Args:
        what: the dataset's name, for messages. features: ``nodes`` and ``edges`` of the spec.
        values: the property that shifts, of each graph. split: ``covariate``, ``concept``, ``none``.
        task, metric: None: guessed from the labels.
        environments: of each graph, where they are given; else those that the split makes.
        rules: options of ``splits.covariate`` and ``splits.concept``, by their names.

    Raises:
        DataError: labels that cannot be, or a concept split by something that has no labels.
    """
    y = graphs.graphs["y"]
    task, outputs = task_of(y, task, what)
    rules = (rules or {}).get(split, {})
    if split == "none" or values is None:
        rows, env = splits.no_shift(len(graphs), seed)
        count = 0
    elif split == "covariate":
        rows, env = splits.covariate(values, seed, **rules)
        count = int(env.max()) + 1
    else:
        label = y.nanmean(1).nan_to_num(0.0).numpy() if task != "multiclass" else (y[:, 0] > 0).float().numpy()
        rows, env = splits.concept(values, label, seed, **rules)
        count = int(env.max()) + 1
    if environments is not None:
        train = rows["train"].numpy()
        _, numbers = np.unique(np.asarray(environments)[train], return_inverse=True)
        env = torch.zeros(len(graphs), dtype=torch.int64)
        env[rows["train"]] = torch.from_numpy(numbers.astype(np.int64))
        count = int(env.max()) + 1
    graphs.graphs["env"] = env
    bare = int((graphs.edge_count == 0).sum())
    if 0 < bare < len(graphs):
        log.warning("%s: %d of %d graphs have no edge; their masks are empty", what, bare, len(graphs))
    return Parts(graphs, rows, Spec(*features, outputs, task, count), metric or METRICS[task])
