"""Random decisions by which planners are compared with the optimum: the standard instance of this project."""

import torch

from decathlon.randomness import seed_of
from decathlon.tasks.cave.epoch import CEILING, Epoch


def random_epoch(count: int, tasks: int, vehicles: int, target: float = 0.99, seed: int = 0) -> Epoch:
    """``count`` independent decisions.

    work U(0.2, 1.5) Gcycle, speed U(2, 8) Gcycle/s, upload U(0.5, 3) Mbit and a result of 5 % of it, rate U(10, 70)
    Mbit/s, on every vehicle Poisson(1) replicas in progress with remaining work U(0.1, 1), hazard log-uniform(0.02,
    0.6)/s, contact U(1, 20) s. With T = communication + work / (speed / 2) a replica succeeds with probability
    exp(-hazard T) * logistic((contact - T) / (0.1 contact + 0.1)).
    """
    generator = torch.Generator().manual_seed(seed_of("cave", "instances", seed, tasks, vehicles))

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    work, upload = between(0.2, 1.5, count, tasks), between(0.5, 3, count, tasks)
    speed, rate = between(2, 8, count, vehicles), between(10, 70, count, vehicles)
    running = torch.poisson(torch.ones(count, vehicles, dtype=torch.float64), generator=generator)
    most = 12
    remaining = between(0.1, 1, count, vehicles, most).sqrt()
    load = (remaining * (torch.arange(most) < running[..., None])).sum(2)
    hazard = torch.exp(between(float(torch.tensor(0.02).log()), float(torch.tensor(0.6).log()), count, vehicles))
    contact = between(1, 20, count, vehicles)
    link = 1.05 * upload[:, :, None] / rate[:, None, :]
    latency = link + work[:, :, None] / (0.5 * speed[:, None, :])
    stays = torch.sigmoid((contact[:, None, :] - latency) / (0.1 * contact[:, None, :] + 0.1))
    success = (torch.exp(-hazard[:, None, :] * latency) * stays).clamp(0, CEILING)
    return Epoch(
        work=work, weight=1.0, upload=upload, result=0.05 * upload, target=target, speed=speed, rate=rate,
        hazard=hazard, contact=contact, load=load, success=success,
    )  # fmt: skip
