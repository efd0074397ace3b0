"""Speed of JRegNet's training and audit, as ratios within one run.

1. One training iteration of the paper-size network with the local misreport search, against the same with 25 ascent
   steps; and the share of the exact regret that each search recovers on one trained network.
2. The regret evaluator (101 bids and a refinement) against a grid of 401 bids: how much of its regret it finds.
3. Ten stacked seeds against one, in the recipe of method=jregnet: batches of 64 and one deviating bidder in each
   profile; on one core, and on all of them. The arithmetic grows with the seeds, only the cost of handing out
   operations is shared. So, without a goal, the same with batches of 128 where all bidders deviate in each profile.
4. The largest tensor that arises in the regret evaluator as it is used, in pieces of about 8,192 rows, against the
   n * M * B * n * K numbers of slot-wise inputs; and, without a goal, the same in one piece and in one training
   iteration. There the activations are larger: 2 * width numbers for each deviation, against n * K.

``python scripts/bench/jregnet.py [--quick]``
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from decathlon.tasks.jregnet import exact_regret
from decathlon.tasks.jregnet.compute import small_nets
from decathlon.tasks.jregnet.learner import RegretLearner
from decathlon.tasks.jregnet.market import Market, TrainingProfiles
from decathlon.tasks.jregnet.methods import Batch
from decathlon.tasks.jregnet.regret import MAX_ROWS, deviation_utilities
from decathlon.tasks.jregnet.training import Schedule, adam, iterate, train

PAPER: dict[str, Any] = {"width": 100, "depth": 5, "activation": "tanh", "inputs": "slotwise"}
SMALL: dict[str, Any] = {"width": 64, "depth": 2, "activation": "silu", "inputs": "bids"}
LOCAL: dict[str, Any] = {"kind": "local"}
WHOLE = 1 << 62  # rows: everything in one piece
ASCENT: dict[str, Any] = {"kind": "ascent", "steps": 25, "lr": 0.1, "count": 1}


class LargestTensor(TorchDispatchMode):
    """The most numbers that any tensor made inside holds."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def s1() -> Market:
    """S1: two separate bundles, two slots."""
    return Market({"stores": 2, "brands": 2, "graph": "disjoint"}, 0, [1.0, 0.5])


def e() -> Market:
    """E: 3 x 5, all 15 bundles, five slots; the paper's size."""
    return Market({"stores": 3, "brands": 5, "graph": "full"}, 0, [0.5, 0.3, 0.15, 0.1, 0.03])


def learner(
    market: Market,
    seeds: Sequence[int],
    network: dict[str, Any],
    search: dict[str, Any],
    deviators: int | None = None,
) -> RegretLearner:
    """An untrained JRegNet; all bidders deviate in each profile unless ``deviators`` says how many."""
    return RegretLearner(market.auction, market.prior, seeds, network=network, search=search, deviators=deviators)


def alternate(run: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each call, the calls taking turns so that a busy moment hits all."""
    seconds = dict.fromkeys(run, float("inf"))
    for call in run.values():
        call()
    for _ in range(rounds):
        for name, call in run.items():
            start = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def stepper(method: RegretLearner, market: Market, batch_size: int, count: int) -> Callable[[], None]:
    """A call that makes ``count`` training iterations."""
    profiles = TrainingProfiles.of(method, market, batch_size)
    optimizer, schedule = adam(method, 1e-3), Schedule(10**6, 1e-3)

    def steps() -> None:
        for step in range(count):
            iterate(method, profiles.batch(step), optimizer, schedule, step)

    return steps


def recovered(
    method: RegretLearner, searches: dict[str, dict[str, Any]], market: Market, samples: int
) -> dict[str, float]:
    """Share of the exact mean regret (401 bids) that one run of each search finds on the trained ``method``."""
    values, _ = market.profiles("test", samples, 0)
    reference = exact_regret(method.mechanism(0), market.auction, values, market.prior, points=401).regret.mean()
    shares = {}
    for name, search in searches.items():
        twin = learner(market, method.seeds, {}, search)
        twin.stack = method.stack
        noise = torch.rand(1, market.auction.bidders, twin.noise, samples, generator=torch.Generator().manual_seed(1))
        batch = Batch(values.T[None].contiguous(), noise)
        with torch.no_grad():
            found = twin.find_misreports(batch)
            regrets = twin.objectives(batch, found)[1]
        shares[name] = float(regrets.mean() / reference)
    return shares


def grid_share(method: RegretLearner, market: Market, samples: int) -> float:
    """Mean regret of the evaluator over that of a plain grid of 401 bids."""
    values, _ = market.profiles("test", samples, 0)
    mechanism = method.mechanism(0)
    found = exact_regret(mechanism, market.auction, values, market.prior).regret.mean()
    truth = deviation_utilities(mechanism, market.auction, values, values[None])[0]
    best = torch.zeros_like(values)
    for bid in torch.linspace(0, 1, 401).tolist():
        gains = deviation_utilities(mechanism, market.auction, values, torch.full((1, *values.shape), bid))[0] - truth
        best = best.maximum(gains)
    return float(found / best.mean())


def largest_of_evaluator(market: Market, network: dict[str, Any], samples: int, rows: int) -> float:
    """Most numbers in a tensor of the regret evaluator, over n * M * B * n * K; B is ``samples``."""
    method = learner(market, [0], network, LOCAL)
    values, _ = market.profiles("test", samples, 0)
    with LargestTensor() as seen:
        exact_regret(method.mechanism(0), market.auction, values, market.prior, points=101, max_rows=rows)
    return seen.numel / full_size(market, 101, samples)


def largest_of_iteration(
    market: Market, network: dict[str, Any], search: dict[str, Any], batch_size: int
) -> tuple[float, int]:
    """The same of one training iteration, M being the misreports that the search tries at once; and that M."""
    method = learner(market, [0], network, search)
    batch = TrainingProfiles.of(method, market, batch_size).batch(0)
    optimizer = adam(method, 1e-3)
    with LargestTensor() as seen:
        iterate(method, batch, optimizer, Schedule(10**6, 1e-3), 0)
    return seen.numel / full_size(market, method.noise, batch_size), method.noise


def full_size(market: Market, misreports: int, samples: int) -> int:
    """n * M * B * n * K: slot-wise inputs of every deviation."""
    return market.auction.bidders**2 * misreports * samples * market.auction.slots


def line(name: str, value: str, wanted: str, good: bool) -> None:
    """One row of the report; without ``wanted`` there is no goal."""
    verdict = f"   wanted {wanted:<8} {'ok' if good else 'MISSED'}" if wanted else ""
    print(f"{name:<66} {value:>12}{verdict}", flush=True)


def main() -> None:
    """Run all four and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few iterations, to see that it runs")
    quick = parser.parse_args().quick
    rounds, iterations, samples = (2, 60, 100) if quick else (7, 2_000, 1_000)
    with small_nets():
        market = e()
        times = alternate(
            {
                "local": stepper(learner(market, [0], PAPER, LOCAL), market, 128, 1 if quick else 3),
                "ascent": stepper(learner(market, [0], PAPER, ASCENT), market, 128, 1 if quick else 3),
            },
            rounds,
        )
        ratio = times["local"] / times["ascent"]
        line("iteration at paper size, local search / 25 ascent steps", f"{ratio:.3f}", "<= 0.3", ratio <= 0.3)

        small = s1()
        method = learner(small, [0], SMALL, LOCAL)
        train(method, TrainingProfiles.of(method, small, 128), Schedule(iterations, 0.01, 50, 0.02))
        shares = recovered(method, {"local": LOCAL, "ascent": ASCENT}, small, samples)
        line(
            "share of exact regret found by the local search",
            f"{shares['local']:.3f}",
            ">= 0.9",
            shares["local"] >= 0.9,
        )
        worse = shares["local"] >= shares["ascent"]
        line("share found by 25 ascent steps from a random start", f"{shares['ascent']:.3f}", "<= local", worse)
        share = grid_share(method, small, samples)
        line("regret evaluator / grid of 401 bids", f"{share:.4f}", ">= 0.99", share >= 0.99)

        count = 10 if quick else 50
        for deviators, batch_size, wanted in ((1, 64, "<= 3"), (None, 128, "")):
            one, ten = (learner(small, seeds, SMALL, LOCAL, deviators) for seeds in (range(1), range(10)))
            single, stacked = (stepper(method, small, batch_size, count) for method in (one, ten))
            seconds = alternate({"one": single, "ten": stacked}, rounds)
            cores = os.cpu_count() or 1
            with small_nets(cores):
                many = alternate({"ten": stacked}, rounds)["ten"]
            recipe = "" if deviators else ", batch 128, all deviate"
            for where, took in (("one core", seconds["ten"]), (f"{cores} cores / one on one", many)):
                ratio = took / seconds["one"]
                line(f"ten stacked seeds / one{recipe}, {where}", f"{ratio:.2f}", wanted, ratio <= 3)

        share = largest_of_evaluator(market, PAPER, 100 if quick else 1_000, MAX_ROWS)
        line("largest tensor of the evaluator / n M B n K", f"{share:.4f}", "< 1", share < 1)
        share = largest_of_evaluator(market, PAPER, 20 if quick else 100, WHOLE)
        line("the same in one piece", f"{share:.2f}", "", True)
        for name, search in (("local search", LOCAL), ("25 ascent steps", ASCENT)):
            share, count = largest_of_iteration(market, PAPER, search, 128)
            line(f"the same, one training iteration, {name} (M = {count})", f"{share:.2f}", "", True)


if __name__ == "__main__":
    main()
