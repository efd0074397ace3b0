"""Random epochs, and plain loops that say what the batched code must say."""

import itertools
import math

import torch

from decathlon.tasks.cave import Epoch


def random_world(scenarios: int, count: int, slots: int, seed: int = 0, **options: object) -> Epoch:
    """Epochs by the model of success, with masks, an ego, and vehicles that cannot be reached."""
    g = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, columns: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(scenarios, columns, generator=g, dtype=torch.float64)

    tasks, vehicles = count, slots
    rate = between(5, 70, vehicles)
    rate[rate < 12] = 0.0
    given: dict = dict(
        work=between(0.1, 2, tasks), weight=between(0.5, 2, tasks), upload=between(0.5, 3, tasks),
        result=between(0.05, 0.3, tasks), target=between(0.5, 0.99, tasks), speed=between(1, 8, vehicles), rate=rate,
        hazard=between(0.01, 0.5, vehicles), contact=between(0, 20, vehicles), load=between(0, 2, vehicles), local=True,
    )  # fmt: skip
    return Epoch(**{**given, **options})


def random_assignments(epoch: Epoch, count: int, seed: int = 1) -> torch.Tensor:
    """(S, count, K, N) bool, on usable vehicles."""
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(epoch.scenarios, count, epoch.count, epoch.slots, generator=g) < 0.4) & epoch.usable[:, None]


def plain_objective(epoch: Epoch, scenario: int, x: torch.Tensor) -> float:
    """J by summing the latency of every replica with optimal shares, less what is there without the new ones."""
    total = 0.0
    for n in range(epoch.slots):
        load, speed = float(epoch.load[scenario, n]), float(epoch.divisor[scenario, n])
        level = load
        for k in range(epoch.count):
            if x[k, n]:
                level += math.sqrt(float(epoch.weight[scenario, k]) * float(epoch.work[scenario, k]))
        # The share of a replica of root a is a / level; its weighted compute latency a^2 / (share speed).
        total += load * level / speed - load * load / speed
        for k in range(epoch.count):
            if x[k, n]:
                weight, work = float(epoch.weight[scenario, k]), float(epoch.work[scenario, k])
                share = math.sqrt(weight * work) / level
                link = (
                    0.0
                    if n == 0 and epoch.local
                    else float((epoch.upload[scenario, k] + epoch.result[scenario, k]) / epoch.rate[scenario, n])
                )
                total += weight * (work / (share * speed) + link)
    return total


def plain_cover(order: list[int], share: list[float]) -> set[int]:
    """The vehicles of ``order`` until their shares reach one; those without a share are skipped."""
    taken: set[int] = set()
    total = 0.0
    for n in order:
        if total >= 1 - 1e-9:
            break
        if share[n] > 0:
            taken.add(n)
            total += share[n]
    return taken


def subsets(size: int) -> list[tuple[int, ...]]:
    """All 0/1 tuples."""
    return list(itertools.product((0, 1), repeat=size))
