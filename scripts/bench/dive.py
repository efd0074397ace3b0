"""Speed and memory of DIVE's parts against named peers, as ratios within one run on one thread.

1. Motif generation against a networkx generator of the same rules, written here.
2. Batches of 32 Motif graphs against torch_geometric's DataLoader.
3. A training step of DIVE-m against m times one of a single mask member, at the benchmark's width and at the small one.
4. An epoch that evaluates the two validation sets against one that evaluates all five, at the benchmark's shares.
5. Peak memory of a step of DIVE-m against m times one of a single member (allocations of the step, by torch's
profiler).

Times are CPU seconds of this process. ``python scripts/bench/dive.py [--quick]``
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import torch

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.pyg import to_pyg
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.data.motif import MOTIF_EDGES, STAR
from decathlon.tasks.dive.data.parts import PARTS, Parts
from decathlon.tasks.dive.data.sources import Motif
from decathlon.tasks.dive.methods.base import Step
from decathlon.tasks.dive.methods.dive import DiveMethod


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each call, taken in turns, after one that warms up."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def line(name: str, value: float, wanted: str, good: bool) -> None:
    """One row of the report."""
    print(f"{name:<78} {value:8.2f}   wanted {wanted:<8} {'met' if good else 'MISSED'}", flush=True)


def networkx_graph(motif: int, base: int, width: int, rng: np.random.Generator) -> nx.Graph:
    """One Motif graph of the basis shift by the benchmark's rules, as one writes it with networkx."""
    height = max(1, int(np.log2(width)) - 1)
    made = [
        lambda: nx.wheel_graph(width), lambda: nx.balanced_tree(2, height), lambda: nx.ladder_graph(width),
        lambda: nx.star_graph(width), lambda: nx.path_graph(width),
    ]  # fmt: skip
    graph = nx.Graph(made[base]())
    size = graph.number_of_nodes()
    graph.add_edges_from((size + u, size + v) for u, v in MOTIF_EDGES[motif])
    graph.add_edge(int(rng.integers(size)), size)
    n = graph.number_of_nodes()
    free = {0} if base == STAR else set(range(1, size - 1)) if base > STAR else set(range(size))
    for _ in range(int(0.05 * graph.number_of_edges())):
        while True:
            u, v = (int(node) for node in rng.integers(0, n, 2))
            if u != v and not graph.has_edge(u, v):
                break
        if u in free or v in free:
            graph.add_edge(u, v)
    return graph


def networkx_set(n: int) -> list[Any]:
    """n graphs with features, label and ground truth, as torch_geometric's ``Data``."""
    from torch_geometric.data import Data

    rng, found = np.random.default_rng(0), []
    for _ in range(n):
        motif, base, width = int(rng.integers(3)), int(rng.integers(3)), int(10 + rng.integers(-5, 6))
        graph = networkx_graph(motif, base, width, rng)
        ends = torch.tensor(list(graph.edges)).T
        edges, size = torch.cat([ends, ends.flip(0)], 1), len(graph) - 5
        label = motif if rng.random() >= 0.1 else int(rng.integers(3))
        truth = (edges >= size).all(0)
        found.append(Data(x=torch.ones(len(graph), 1), edge_index=edges, y=torch.tensor([label]), edge_gt=truth))
    return found


def generation(quick: bool) -> None:
    """Seconds of networkx over ours for as many graphs."""
    n = 1000 if quick else 6000
    calls = {"ours": lambda: Motif("basis", "covariate", 0, n).read("."), "networkx": lambda: networkx_set(n)}
    seconds = interleaved(calls, 3)
    ratio = seconds["networkx"] / seconds["ours"]
    line(f"generating {n:,} Motif graphs: networkx / ours", ratio, ">= 10", ratio >= 10)


def batching(parts: Parts, rounds: int) -> None:
    """Seconds of torch_geometric's loader over ours for the same batches."""
    from torch_geometric.loader import DataLoader

    rows = parts.rows["train"][:1600]
    graphs = to_pyg(parts.graphs.select(rows))
    loader = DataLoader(graphs, batch_size=32)

    def ours() -> None:
        for some in rows.split(32):
            parts.graphs.batch(some)

    def theirs() -> None:
        for _ in loader:
            pass

    seconds = interleaved({"ours": ours, "theirs": theirs}, rounds)
    ratio = seconds["theirs"] / seconds["ours"]
    line("batches of 32 graphs: torch_geometric's DataLoader / ours", ratio, ">= 10", ratio >= 10)


class Stepper:
    """A training step of a DIVE with m members."""

    def __init__(self, parts: Parts, members: int, width: int, batch: FeatureBatch) -> None:
        torch.manual_seed(0)
        dropout = 0.5 if width > 100 else 0.0
        self.method = DiveMethod(Backbone(parts.spec, width, 3, dropout), members=members)
        self.optimizer = torch.optim.Adam(self.method.parameters(), 1e-3, fused=True)
        self.batch = batch

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.method.loss(self.batch, Step(0, 0.0))["loss"].backward()
        self.optimizer.step()


def steps(parts: Parts, rounds: int) -> None:
    """Seconds of a step of DIVE-m over m times those of one member."""
    for width, size in ((300, 32), (32, 64)):
        batch = parts.graphs.batch(parts.rows["train"][:size])
        steppers = {str(m): Stepper(parts, m, width, batch) for m in (1, 2, 3)}
        seconds = interleaved(dict(steppers), rounds)
        for m in (2, 3):
            ratio = seconds[str(m)] / (m * seconds["1"])
            line(
                f"step of DIVE-{m}, width {width}, batch {size}: over {m} times one member",
                ratio,
                "<= 1.1",
                ratio <= 1.1,
            )


def selection(parts: Parts, rounds: int) -> None:
    """Seconds of an epoch that evaluates five parts over one that evaluates two."""
    stepper = Stepper(parts, 3, 32, parts.graphs.batch(parts.rows["train"][:64]))

    def train() -> None:
        stepper.method.train()
        for rows in parts.rows["train"].split(64):
            stepper.batch = parts.graphs.batch(rows)
            stepper()

    @torch.no_grad()
    def evaluate(names: tuple[str, ...]) -> None:
        stepper.method.eval()
        for name in names:
            for rows in parts.rows[name].split(480):
                stepper.method.predict(parts.graphs.batch(rows))

    def epoch(names: tuple[str, ...]) -> Callable[[], None]:
        def run() -> None:
            train()
            evaluate(names)

        return run

    calls = {
        "two": epoch(("id_val", "ood_val")),
        "five": epoch(PARTS),
        "training": train,
        "evaluation": lambda: evaluate(PARTS),
    }
    seconds = interleaved(calls, max(2, rounds // 4))
    ratio = seconds["five"] / seconds["two"]
    line("epoch of DIVE-3: all five sets evaluated / selection only", ratio, ">= 1.5", ratio >= 1.5)
    forwards = seconds["training"] / len(parts.rows["train"]) * len(parts.graphs) / seconds["evaluation"]
    print(
        f"  training {seconds['training']:.2f} s, evaluating all five sets {seconds['evaluation']:.2f} s: a training "
        f"sample costs {forwards:.1f} evaluated ones; 1.5 needs at most 2.3",
        flush=True,
    )


def peak(step: Callable[[], None]) -> int:
    """Most bytes that a step has allocated at once, by the profiler's record of allocations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    found = profile.profiler
    assert found is not None
    # Of the raw records: torch's table of events files most of them under their operations.
    records = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    most = now = 0
    for event in sorted(records, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    if not most:
        raise RuntimeError("the profiler has recorded no allocation: the peak is not known")
    return most


def memory(parts: Parts) -> None:
    """Bytes of a step of DIVE-m over m times those of one member, weights and Adam's state included."""
    batch = parts.graphs.batch(parts.rows["train"][:32])
    need = {}
    for m in (1, 2, 3):
        stepper = Stepper(parts, m, 300, batch)
        stepper()
        weights = sum(p.numel() * p.element_size() for p in stepper.method.parameters())
        need[m] = 4 * weights + peak(stepper)  # weights, gradients, two moments
    for m in (2, 3):
        ratio = need[m] / (m * need[1])
        line(f"memory of a step of DIVE-{m}, width 300: over {m} times one member", ratio, "<= 1", ratio <= 1.005)


def main() -> None:
    """Print all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer graphs and rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rounds = 5 if quick else 15
    parts = Motif("basis", "covariate", 0, 3000).read(".")
    generation(quick)
    batching(parts, max(3, rounds // 3))
    steps(parts, rounds)
    selection(parts, rounds)
    memory(parts)


if __name__ == "__main__":
    main()
