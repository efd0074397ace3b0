"""What happens whatever the method: who lends, which tasks arrive, when a replica's vehicle would fail.

All of it is drawn by hashing what it belongs to, so every method of a seed meets the same world.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.tasks.cave import steady, streams
from decathlon.tasks.cave.simulator.settings import Settings


@dataclass
class Tasks:
    """The arrivals of S scenarios, padded to A; in the order of time.

    Attributes:
        arrival: (S, A) s; infinite for padding. upload, result: Mbit. work: Gcycle.
    """

    arrival: Tensor
    upload: Tensor
    result: Tensor
    work: Tensor


def arrivals(settings: Settings, scenarios: Tensor, seed: int) -> Tasks:
    """Poisson arrivals over the horizon, sizes and work densities uniform."""
    expected = settings.rate * settings.horizon
    count = math.ceil(expected + 8 * math.sqrt(expected)) + 20 if expected > 0 else 0
    keys = streams.key(scenarios, seed, "tasks")[:, None]
    number = torch.arange(count, device=scenarios.device)
    if count:
        gaps = -steady.log(streams.uniform(keys, number, 0)) / settings.rate
        arrival = gaps.cumsum(1)
        if bool((arrival[:, -1] < settings.horizon).any()):
            raise RuntimeError("more arrivals than room for them: their number was more than eight deviations off")
        arrival = torch.where(arrival < settings.horizon, arrival, math.inf)
    else:
        arrival = torch.zeros(len(scenarios), 0, dtype=torch.float64, device=scenarios.device)
    upload = _between(settings.upload, streams.uniform(keys, number, 1))
    density = _between(settings.density, streams.uniform(keys, number, 2))
    return Tasks(arrival, upload, settings.result * upload, upload * density / 1000)


@dataclass
class Lenders:
    """The vehicles that lend compute, padded to V; column 0 is the ego.

    Attributes:
        column: (S, V - 1) place among the traffic's vehicles. id: (S, V - 1) of the vehicle.
        there: (S, V - 1) bool, False for padding.
        speed: (S, V) Gcycle/s. hazard: (S, V) 1/s.
    """

    column: Tensor
    id: Tensor
    there: Tensor
    speed: Tensor
    hazard: Tensor


def lenders(settings: Settings, scenarios: Tensor, ids: Tensor, seed: int) -> Lenders:
    """Who among the vehicles ``ids`` (S, M) lends, what it offers, and how often it fails."""
    keys = streams.key(scenarios, seed, "lenders")[:, None]
    lends = streams.uniform(keys, ids, 0) < settings.participation
    column = lends.byte().argsort(dim=1, descending=True, stable=True)[
        :, : int(lends.sum(1).max()) if lends.numel() else 0
    ]
    there, numbers = lends.gather(1, column), ids.gather(1, column)
    speed = _between(settings.speed, streams.uniform(keys, numbers, 1))
    low, high = (math.log(value) for value in settings.hazard)
    hazard = steady.exp(_between((low, high), streams.uniform(keys, numbers, 2)))
    own = torch.ones(len(scenarios), 1, dtype=torch.float64, device=scenarios.device)
    return Lenders(
        column, numbers, there, torch.cat([own * settings.local_speed, speed], 1),
        torch.cat([own * settings.local_hazard, hazard], 1),
    )  # fmt: skip


def lifetimes(keys: Tensor, tasks: Tensor, vehicles: Tensor, attempts: Tensor, hazard: Tensor) -> Tensor:
    """Seconds until a replica fails: exponential, drawn once for each task, vehicle and attempt."""
    uniform = streams.uniform(keys, tasks, vehicles, attempts)
    return torch.where(hazard > 0, -steady.log(uniform) / hazard.clamp(min=1e-300), math.inf)


def _between(pair: tuple[float, float], uniform: Tensor) -> Tensor:
    return pair[0] + (pair[1] - pair[0]) * uniform
