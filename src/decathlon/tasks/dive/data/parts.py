"""A dataset that is cut into five: training, and validation and test in and out of its distribution."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.graphs.packing import PackedGraphs
from decathlon.tasks.dive.backbone import Spec

PARTS = ("train", "id_val", "id_test", "ood_val", "ood_test")
WORDS = {"id_val": "ID validation", "id_test": "ID test", "ood_val": "OOD validation", "ood_test": "OOD test"}


@dataclass
class Parts:
    """Graphs, and which of them are in which part.

    Attributes:
        graphs: with ``y`` (n, T) float32 and, where environments are known, ``env`` (n,) int64, numbered from 0 over
            the training set (what it is elsewhere does not matter).
        rows: positions of the graphs of each of ``PARTS``.
        spec: what networks have to know. metric: ``accuracy``, ``roc_auc`` or ``mae``.
        report: counts for people to read.
    """

    graphs: PackedGraphs
    rows: dict[str, Tensor]
    spec: Spec
    metric: str
    report: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, at_least: int) -> None:
        """Whether every part has graphs, and the set has edges.

        Raises:
            DataError: in one line, no.
        """
        for part in PARTS:
            if not len(self.rows[part]):
                raise DataError(
                    f"{name}: the {WORDS.get(part, 'training')} set is empty ({len(self.graphs)} graphs in all); "
                    f"choose another shift= or split=, or give more data"
                )
        if len(self.rows["train"]) < at_least:
            raise DataError(f"{name}: the training set has {len(self.rows['train'])} graphs, fewer than a batch")
        if not int(self.graphs.edge_count.sum()):
            raise DataError(f"{name}: no graph has an edge; there is nothing to mask")


def cut_id_sets(pool: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Shuffle the training pool, and take ``count`` of it for ID validation and as many for ID test: the three sets."""
    shuffled = pool[torch.randperm(len(pool), generator=generator)]
    count = max(0, min(count, (len(pool) - 1) // 2))
    return shuffled[2 * count :], shuffled[:count], shuffled[count : 2 * count]
