"""Where graphs come from: the generator of GOOD-Motif, and graphs of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.graphs.packing import PackedGraphs
from decathlon.randomness import generator, numpy_generator
from decathlon.tasks.dive.backbone import Spec
from decathlon.tasks.dive.data import motif
from decathlon.tasks.dive.data.parts import Parts, cut_id_sets
from decathlon.tasks.dive.data.splits import SPLITS

RATIOS = (0.99, 0.97, 0.95, 0.3, 0.0)


def check_split(split: str, shift: str, shifts: Sequence[str]) -> None:
    """Whether there are such a split and shift.

    Raises:
        ValueError: in one line, no.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split} is unknown; choose {', '.join(SPLITS)}")
    if shift not in shifts:
        raise ValueError(f"shift={shift} is unknown here; choose {', '.join(shifts)}")


class Motif:
    """GOOD-Motif, generated.

    Args:
        shift: ``basis`` or ``size``. split: ``covariate``, ``concept``, ``none``.
        graphs: how many in all, 30,000 in the benchmark: of a covariate shift 80 % for training and the ID sets, of a
            concept shift 60 %; of none 60 % without the ID sets.
        ratios: of a concept shift, how often base (or width) and motif go together: in each training environment, in
            validation, in test. seed: of the graphs.

    Raises:
        ValueError: an unknown shift or split, too few graphs, ratios that are no shares.
    """

    def __init__(
        self, shift: str, split: str, seed: int = 0, graphs: int = 30_000, ratios: Sequence[float] = RATIOS
    ) -> None:
        check_split(split, shift, ("basis", "size"))
        if graphs < 100:
            raise ValueError(f"graphs={graphs} are too few to split; give at least 100")
        if len(ratios) < 3 or not all(0 <= ratio <= 1 for ratio in ratios):
            raise ValueError(f"ratios={list(ratios)} must be three or more shares: of training, validation, test")
        self.shift, self.split, self.seed = shift, split, seed
        self.graphs, self.ratios = graphs, tuple(float(ratio) for ratio in ratios)

    def read(self, root: str | Path) -> Parts:
        """Draw the graphs."""
        n = self.graphs
        out = int(n * (0.2 if self.split == "concept" else 0.1 if self.split == "covariate" else 0.2))
        sizes = {"train": n - 2 * out, "val": out, "test": out}
        drawn = [self._draw(part, size) for part, size in sizes.items()]
        graphs = joined(drawn)
        pool, val, test = torch.arange(n).split(list(sizes.values()))
        cut = generator("motif split", self.seed)
        rows = {"ood_val": val, "ood_test": test, "train": pool, "id_val": val, "id_test": test}
        if self.split != "none":
            size = int(0.15 * len(pool)) if self.split == "concept" else int(0.1 * n)
            rows["train"], rows["id_val"], rows["id_test"] = cut_id_sets(pool, size, cut)
        environments = int(graphs.graphs["env"][rows["train"]].max()) + 1
        return Parts(graphs, rows, Spec(1, 0, len(motif.MOTIFS), "multiclass", environments), "accuracy")

    def _draw(self, part: str, size: int) -> PackedGraphs:
        rng = numpy_generator("motif", self.seed, self.shift, self.split, part)
        draw, environment = motif.draw_set(self.shift, self.split, part, size, self.ratios, rng)
        return motif.build_graphs(draw, environment, rng)


def joined(sets: Sequence[PackedGraphs]) -> PackedGraphs:
    """Several sets of graphs with the same tensors as one."""

    def together(kind: str) -> dict[str, Tensor]:
        parts: list[dict[str, Any]] = [getattr(one, kind) for one in sets]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    structure = {
        name: torch.cat([getattr(one, name) for one in sets])
        for name in ("node_count", "edge_count", "degree", "neighbours")
    }
    return PackedGraphs(
        **structure, nodes=together("nodes"), edges=together("edges"), graphs=together("graphs"),
        symmetric=all(one.symmetric for one in sets),
    )  # fmt: skip
