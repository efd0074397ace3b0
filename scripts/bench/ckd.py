"""Speed and memory of the recommendation task against plain code, as ratios in one run.

    python scripts/bench/ckd.py [--repeats 5] [--users 19445] [--items 7050] [--rows 118551] [--recbole]

One thread. Ways are timed in turn and medians compared. The sizes are Amazon Baby's, with features of 4,096 and 1,024
dimensions drawn at random; no file is read. ``--recbole`` compares with RecBole's all-item evaluation, if installed.
"""

import argparse
import contextlib
import ctypes
import heapq
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from decathlon.recommendation.interactions import ItemLists
from decathlon.recommendation.ranking import evaluate, inner_products
from decathlon.recommendation.samplers import UserSampler
from decathlon.runner.machine import peak_memory, reset_peak_memory
from decathlon.tasks.ckd.backbones import Graph, make_backbone
from decathlon.tasks.ckd.methods.base import Method
from decathlon.tasks.ckd.methods.distil import CKD
from decathlon.tasks.ckd.training import Settings, Training

Row = dict[str, Any]
WIDTHS = {"image": 4096, "text": 1024}


def row(what: str, value: float, target: float, better: str, detail: str = "") -> Row:
    """One result: whether ``value`` is at least (``better=higher``) or at most its target."""
    met = value >= target if better == "higher" else value <= target
    return {"what": what, "value": value, "target": target, "better": better, "met": met, "detail": detail}


def medians(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, the ways taking turns after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def interactions(users: int, items: int, rows: int, seed: int = 0) -> ItemLists:
    """Random interactions with a popularity like that of shops; every user has one at least."""
    generator = torch.Generator().manual_seed(seed)
    weight = 1 / torch.arange(1, items + 1, dtype=torch.float64)
    user = torch.cat([torch.arange(users), torch.randint(users, (max(0, rows - users),), generator=generator)])
    item = torch.multinomial(weight, len(user), replacement=True, generator=generator)
    return ItemLists.of(user, item, users, items)


def features(items: int) -> dict[str, Tensor]:
    """Random features of two modalities."""
    return {
        name: torch.randn(items, width, generator=torch.Generator().manual_seed(0)) for name, width in WIDTHS.items()
    }


def loop_evaluation(users: Tensor, items: Tensor, seen: ItemLists, held: ItemLists, some: list[int]) -> float:
    """Recall@20 as the published code finds it: user by user, a dict of scores, the largest by a heap."""
    total = 0.0
    for user in some:
        scores = (users[user] @ items.T).tolist()
        left_out = set(seen[user].tolist())
        candidates = {item: scores[item] for item in range(len(items)) if item not in left_out}
        best = heapq.nlargest(20, candidates, key=candidates.__getitem__)
        wanted = set(held[user].tolist())
        total += sum(item in wanted for item in best) / len(wanted)
    return total / len(some)


def bench_evaluation(train: ItemLists, repeats: int, recbole: bool) -> list[Row]:
    """All-item evaluation at D = 192."""
    generator = torch.Generator().manual_seed(1)
    users = torch.randn(train.users, 192, generator=generator)
    items = torch.randn(train.items, 192, generator=generator)
    held = interactions(train.users, train.items, int(1.2 * train.users), seed=2)
    some = list(range(0, train.users, max(1, train.users // 200)))
    share = len(some) / train.users
    found = medians(
        {
            "ours": lambda: evaluate(inner_products(users, items), train, held),
            "loop": lambda: loop_evaluation(users, items, train, held, some),
        },
        min(repeats, 3),
    )
    whole = found["loop"] / share
    rows = [
        row(
            "all-item evaluation against a per-user loop, times faster", whole / found["ours"], 10.0, "higher",
            f"{found['ours']:.2f} s against {whole:.0f} s (from {len(some)} users)",
        )
    ]  # fmt: skip
    if recbole:
        rows.append(bench_recbole(users, items, train, held, found["ours"], repeats))
    return rows


def bench_recbole(users: Tensor, items: Tensor, train: ItemLists, held: ItemLists, ours: float, repeats: int) -> Row:
    """RecBole's collector and evaluator, batch by batch as its trainer feeds them."""
    from recbole.config import Config
    from recbole.evaluator import Collector, Evaluator

    options = {
        "topk": [10, 20],
        "metrics": ["Recall", "NDCG", "Precision", "Hit"],
        "eval_batch_size": 4096,
        "device": "cpu",
    }
    config = Config(model="BPR", dataset="ml-100k", config_dict=options)

    def whole() -> None:
        collector, evaluator = Collector(config), Evaluator(config)
        size = max(1, 4096 * 1000 // train.items)
        for begin in range(0, train.users, size):
            chosen = torch.arange(begin, min(begin + size, train.users))
            scores = users[chosen] @ items.T
            place = [(u - begin, i) for u in chosen.tolist() for i in train[u].tolist()]
            u, i = torch.tensor(place).T
            scores[u, i] = -torch.inf
            pairs = [(n - begin, i) for n in chosen.tolist() for i in held[n].tolist()]
            positive_u, positive_i = torch.tensor(pairs).T
            collector.eval_batch_collect(scores, None, positive_u, positive_i)
        evaluator.evaluate(collector.get_data_struct())

    theirs = medians({"recbole": whole}, min(repeats, 3))["recbole"]
    return row(
        "all-item evaluation against RecBole's, times faster", theirs / ours, 4.0, "higher",
        f"{ours:.2f} s against {theirs:.2f} s",
    )  # fmt: skip


def bench_sampler(train: ItemLists, repeats: int, batch: int = 1024) -> list[Row]:
    """A batch of BPR triples against a loop over users with sets and rejection."""
    batch = min(batch, train.users)
    sampler = UserSampler(train, batch, seed=0)
    taken = {user: train[user].tolist() for user in range(train.users)}
    sets = {user: set(items) for user, items in taken.items()}
    step = iter(range(10**9))

    def loop() -> None:
        for user in random.sample(range(train.users), batch):
            random.choice(taken[user])
            while random.randrange(train.items) in sets[user]:
                pass

    def published() -> None:
        """The same with NumPy's scalar draws, as the published code makes them."""
        import numpy as np

        users = random.sample(range(train.users), batch)
        for user in users:
            taken[user][np.random.randint(low=0, high=len(taken[user]), size=1)[0]]
            while np.random.randint(low=0, high=train.items, size=1)[0] in taken[user]:
                pass

    ways = {"ours": lambda: [sampler.batch(next(step)) for _ in range(50)], "loop": loop, "published": published}
    found = medians(ways, 3 * repeats)
    found["ours"] /= 50  # one is too short to be timed
    detail = f"{1e3 * found['ours']:.2f} ms against {1e3 * found['published']:.1f}"
    slow, fast = found["published"] / found["ours"], found["loop"] / found["ours"]
    return [
        row("BPR batch against a loop with NumPy's draws, times faster", slow, 20.0, "higher", detail),
        row("... against a loop with Python's own draws", fast, 1.0, "higher", f"{1e3 * found['loop']:.1f} ms"),
    ]


def trainings(
    name: str, train: ItemLists, given: dict[str, Tensor], labels: tuple[str, ...] = ("joint", "ckd")
) -> dict[str, Callable[[], Any]]:
    """A step of vanilla training and one of CKD."""
    ways: dict[str, Callable[[], Any]] = {}
    for label in labels:
        method = CKD() if label == "ckd" else Method()
        torch.manual_seed(0)
        backbone = make_backbone(name, Graph.of(train), given)
        with torch.no_grad():
            teachers = {m: backbone((m,)) for m in backbone.modalities}
        training = Training(backbone, method, train, train, Settings(), seed=0, teachers=teachers)
        optimizer, step = training.optimizer(), iter(range(1, 10**9))  # step 0 is an epoch's first

        def one(training: Training = training, optimizer: Any = optimizer, step: Any = step) -> None:
            training.step(next(step), optimizer)

        ways[label] = one
    return ways


def bench_training(train: ItemLists, repeats: int) -> list[Row]:
    """Steps with and without CKD, two modalities, G = 5,000; all steps of an epoch are alike."""
    given, rows = features(train.items), []
    for name, limit in (("vbpr", 2.5), ("mmgcn", 3.5), ("grcn", 3.5), ("lattice", 3.5), ("freedom", 3.5)):
        found = medians(trainings(name, train, given), repeats)
        detail = f"{1e3 * found['ckd']:.0f} ms against {1e3 * found['joint']:.0f} ms a step"
        rows.append(
            row(f"{name}: CKD epoch over a vanilla epoch", found["ckd"] / found["joint"], limit, "lower", detail)
        )
    return rows


def peak(copies: int, sizes: list[str]) -> float:
    """MiB that a few steps of CKD need with so many copies of the features, in a process of its own; NaN: unknown."""
    command = [sys.executable, __file__, "--memory", str(copies), *sizes]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(found.stdout.strip().splitlines()[-1])


def memory(train: ItemLists, copies: int) -> float:
    """What :func:`peak` runs: the peak above what the process had before, libraries warmed up by a step of small size.

    ``ru_maxrss`` would not do: a started process inherits its parent's maximum.
    """
    small = {name: torch.randn(50, width) for name, width in WIDTHS.items()}
    trainings("vbpr", interactions(60, 50, 300), small, ("ckd",))["ckd"]()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # holes that the warm-up left are not to hide what is needed
    reset_peak_memory()
    before = peak_memory()["host"]
    given = features(train.items)
    kept = [{name: values.clone() for name, values in given.items()} for _ in range(copies - 1)]
    step = trainings("vbpr", train, given, ("ckd",))["ckd"]
    for _ in range(3):
        step()
    assert len(kept) == copies - 1
    return peak_memory()["host"] - before


def share_of_memory(one: float, four: float, data: float) -> Row:
    """The row of memory; a measure that cannot be true (less than the features themselves) meets nothing.

    Args:
        one, four: MiB with one and with four copies of the features. data: MiB of one copy.
    """
    true = one >= 0.9 * data and four - one >= 0.9 * 3 * data
    detail = f"{one:.0f} MiB against {four:.0f} MiB; the features are {data:.0f} MiB"
    what = "peak memory over that with four copies of the features"
    return row(what, one / four if true else math.nan, 0.4, "lower", detail if true else f"NO TRUE MEASURE: {detail}")


def main() -> None:
    parser = argparse.ArgumentParser(description="multimodal recommendation against plain code")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--users", type=int, default=19_445)
    parser.add_argument("--items", type=int, default=7_050)
    parser.add_argument("--rows", type=int, default=118_551)
    parser.add_argument("--recbole", action="store_true", help="compare with RecBole's evaluation")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = interactions(options.users, options.items, options.rows)
    if options.memory:
        print(memory(train, options.memory))
        return
    rows = bench_evaluation(train, options.repeats, options.recbole) + bench_sampler(train, options.repeats)
    rows += bench_training(train, options.repeats)
    sizes = ["--users", str(options.users), "--items", str(options.items), "--rows", str(options.rows)]
    one, four = peak(1, sizes), peak(4, sizes)
    data = sum(WIDTHS.values()) * options.items * 4 / 2**20
    rows.append(share_of_memory(one, four, data))
    for found in rows:
        sign = ">=" if found["better"] == "higher" else "<="
        verdict = "met" if found["met"] else "NOT MET"
        print(f"{found['what']:75s} {found['value']:10.3g}  ({sign} {found['target']:g}: {verdict})  {found['detail']}")


if __name__ == "__main__":
    main()
