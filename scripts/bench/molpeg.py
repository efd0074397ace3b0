"""MolPeg's speed against named peers, as ratios in one run.

    python scripts/bench/molpeg.py                 # on the embedded dataset: no raw data needed
    python scripts/bench/molpeg.py --molecules 2000 --repeats 3

Ours and the peer's turns alternate, so that a busy machine hits both alike; the ratio is that of the medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.molecules.batches import MoleculeBatch
from decathlon.molecules.chembl import ChemblAlerts
from decathlon.molecules.dataset import MoleculeDataset
from decathlon.molecules.encoders import Gin, make_encoder
from decathlon.pruning import EMA, EpochSampler, Full, Pruner, Reference, SoftRandom, split_batches
from decathlon.tasks.molpeg import MolPeg

N_SELECTION = 350_000


@dataclass
class Row:
    """One comparison: median seconds of both sides, and the ratio wanted."""

    what: str
    ours: float
    peer: float
    goal: str
    speedup: bool  # the ratio is peer / ours (more is better), else ours / peer (less is better)

    @property
    def ratio(self) -> float:
        return self.peer / self.ours if self.speedup else self.ours / self.peer

    @property
    def reached(self) -> bool:
        bound = float(self.goal.split()[1])
        return self.ratio >= bound if self.goal.startswith(">=") else self.ratio <= bound


def alternate(*sides: Callable[[], Any], repeats: int, warmup: int = 1) -> list[float]:
    """Median seconds of each side, whose turns alternate."""
    for _ in range(warmup):
        for side in sides:
            side()
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, taken in zip(sides, seconds):
            start = time.perf_counter()
            side()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def pyg_data(dataset: MoleculeDataset) -> list[Any]:
    """The dataset as torch_geometric ``Data`` objects."""
    from torch_geometric.data import Data

    found = []
    for i in range(len(dataset)):
        batch = dataset.batch(torch.tensor([i]))
        assert isinstance(batch, MoleculeBatch)
        found.append(Data(x=batch.atoms, edge_index=batch.edge_index, edge_attr=batch.bonds[:, None], y=batch.y))
    return found


def batching(dataset: MoleculeDataset, batch_size: int, repeats: int) -> Row:
    """One shuffled epoch of batches, with nothing done to them."""
    from torch_geometric.loader import DataLoader

    sampler = EpochSampler(len(dataset))
    loader = DataLoader(pyg_data(dataset), batch_size=batch_size, shuffle=True)

    def ours() -> None:
        for rows in split_batches(sampler.order(), batch_size):
            dataset.batch(rows)

    def peer() -> None:
        for _ in loader:
            pass

    mine, theirs = alternate(ours, peer, repeats=repeats)
    return Row(f"an epoch of batches of {batch_size} / PyG DataLoader over Data", mine, theirs, ">= 8", True)


def selection(repeats: int) -> Row:
    """Choosing the samples of an epoch from their scores."""
    pruner = MolPeg(N_SELECTION, prune=0.6)
    pruner.score = torch.rand(N_SELECTION)
    scores = pruner.score.tolist()
    k = pruner.k

    def peer() -> Tensor:
        pairs = sorted(((score, i) for i, score in enumerate(scores)), reverse=True)
        return torch.tensor([i for _, i in pairs[:k]])

    assert torch.equal(pruner.select()[0], peer().sort().values)
    mine, theirs = alternate(pruner.select, peer, repeats=repeats)
    return Row(f"selection of {N_SELECTION:,} / sort of tuples", mine, theirs, ">= 50", True)


def averaging(repeats: int) -> Row:
    """One step of the reference of GIN 5x300, against the usual loop over parameters."""
    online, average, other = (list(make_encoder("gin", {"inputs": "graph"}).parameters()) for _ in range(3))
    ema = EMA([p.data for p in average], [p.data for p in online], 0.5)

    def peer() -> None:
        for mine, theirs in zip(other, online):
            mine.data = 0.5 * mine.data + 0.5 * theirs.data

    times = 20

    def many(step: Callable[[], None]) -> Callable[[], None]:
        def steps() -> None:
            for _ in range(times):
                step()

        return steps

    mine, theirs = alternate(many(ema.update), many(peer), repeats=repeats)
    return Row("EMA step of GIN 5x300 / loop over parameters", mine / times, theirs / times, ">= 3", True)


class Training:
    """Epochs of fine-tuning on what a pruner selects, with a reference if it wants one."""

    def __init__(self, dataset: MoleculeDataset, model: str, pruner: Pruner, batch_size: int) -> None:
        torch.manual_seed(0)
        self.dataset, self.pruner, self.batch_size = dataset, pruner, batch_size
        self.encoder = make_encoder(model, dataset.spec)
        self.head = nn.Linear(self.encoder.out_dim, 1)
        self.adam = torch.optim.Adam([*self.encoder.parameters(), *self.head.parameters()], 1e-3)
        self.reference = Reference(self.encoder) if pruner.wants_reference else None
        self.sampler = EpochSampler(len(dataset))

    def losses(self, z: Tensor, y: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.head(z), y, reduction="none").mean(1)

    def epoch(self) -> None:
        self.sampler.set_selection(*self.pruner.select())
        for rows in split_batches(self.sampler.order(), self.batch_size):
            batch = self.dataset.batch(rows)
            online = self.losses(self.encoder(batch), batch.y)
            other = None
            if self.reference is not None:
                with torch.no_grad():
                    other = self.losses(self.reference(batch), batch.y)
            self.pruner.update(batch.index, online, other)
            self.adam.zero_grad()
            online.mean().backward()
            self.adam.step()
            if self.reference is not None:
                self.reference.update()


def epochs(dataset: MoleculeDataset, model: str, batch_size: int, repeats: int) -> list[Row]:
    """Whole epochs of training."""
    n = len(dataset)
    sides = [
        Training(dataset, model, pruner, batch_size)
        for pruner in (MolPeg(n, prune=0.6), SoftRandom(n, prune=0.6), Full(n))
    ]
    molpeg, soft, full = alternate(*(side.epoch for side in sides), repeats=repeats)
    return [
        Row(f"MolPeg's epoch / Soft Random's, prune=0.6, {model}", molpeg, soft, "<= 1.45", False),
        Row(f"MolPeg's epoch at prune=0.6 / whole dataset's, {model}", molpeg, full, "<= 0.65", False),
    ]


class PygGin(nn.Module):
    """The same network with torch_geometric's ``GINEConv``, which applies ReLU to messages and has no self loops."""

    def __init__(self, layers: int, width: int, dropout: float) -> None:
        super().__init__()
        from torch_geometric.nn import GINEConv

        self.element, self.chirality = nn.Embedding(120, width), nn.Embedding(3, width)
        self.types = nn.ModuleList(nn.Embedding(6, width) for _ in range(layers))
        self.directions = nn.ModuleList(nn.Embedding(3, width) for _ in range(layers))
        self.layers = nn.ModuleList(
            GINEConv(nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)))
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, data: Any) -> Tensor:
        from torch_geometric.nn import global_mean_pool

        h = self.element(data.x[:, 0]) + self.chirality(data.x[:, 1])
        kind, direction = data.edge_attr[:, 0] // 3, data.edge_attr[:, 0] % 3
        parts = zip(self.layers, self.norms, self.types, self.directions)
        for i, (layer, norm, types, directions) in enumerate(parts):
            h = norm(layer(h, data.edge_index, types(kind) + directions(direction)))
            h = self.dropout(h.relu() if i < len(self.layers) - 1 else h)
        return global_mean_pool(h, data.batch, data.num_graphs)


def gin_step(dataset: MoleculeDataset, model: str, batch_size: int, repeats: int) -> Row:
    """Forward pass, backward pass and Adam step on a batch that is there already."""
    from torch_geometric.data import Batch

    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:batch_size]
    batch, data = dataset.batch(rows), Batch.from_data_list(pyg_data(dataset.select(rows)))
    mine = make_encoder(model, dataset.spec)
    assert isinstance(mine, Gin)
    theirs = PygGin(len(mine.layers), mine.out_dim, mine.dropout.p)

    def step(encoder: nn.Module, given: Any, adam: torch.optim.Optimizer) -> Callable[[], None]:
        def one() -> None:
            adam.zero_grad()
            encoder(given).square().mean().backward()
            adam.step()

        return one

    sides = [
        step(encoder, given, torch.optim.Adam(encoder.parameters(), 1e-3))
        for encoder, given in ((mine, batch), (theirs, data))
    ]
    ours, peer = alternate(*sides, repeats=repeats)
    return Row(f"step of {model}, batch {batch_size} / PyG GINEConv", ours, peer, "<= 1.0", False)


def show(rows: list[Row]) -> None:
    """One table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"MolPeg, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    for name in ("ours / peer", "ours", "peer", "ratio", "goal", ""):
        table.add_column(name, justify="left" if name == "ours / peer" else "right")
    for row in rows:
        times = [f"{1e3 * seconds:,.2f} ms" for seconds in (row.ours, row.peer)]
        table.add_row(row.what, *times, f"{row.ratio:.2f}", row.goal, "reached" if row.reached else "missed")
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", default="data", help="where the embedded dataset is cached")
    parser.add_argument("--molecules", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = ChemblAlerts().table(arguments.data_dir).thin(arguments.molecules)
    graphs = MoleculeDataset.build(arguments.data_dir, table, "graph")
    bits = MoleculeDataset.build(arguments.data_dir, table, "fingerprint")
    repeats = arguments.repeats
    rows = [
        batching(graphs, 256, repeats),
        selection(repeats),
        averaging(repeats),
        *epochs(graphs, "gin_small", 64, repeats),
        *epochs(bits, "fp_mlp", 128, repeats),
        gin_step(graphs, "gin", 256, max(3, repeats)),
        gin_step(graphs, "gin_small", 256, repeats),
    ]
    show(rows)


if __name__ == "__main__":
    main()
