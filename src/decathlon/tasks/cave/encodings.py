"""From a particle's position to an assignment. Positions are (K, N, S, P): tasks, vehicles, scenarios, particles.

The batch comes last, so that what a sum over tasks or vehicles adds up are long contiguous slices.
"""

import torch
from torch import Tensor

ENCODINGS = ("threshold", "sigmoid", "priority")
COVERED = 1 - 1e-9
SIGMOID_BOUND = 4.0
"""Largest velocity of binary PSO."""


def threshold(position: Tensor, barred: Tensor, out: Tensor) -> None:
    """x = 1 where the position is above one half.

    Args:
        position: (K, N, S, P).
        barred: (K, N, S, 1) 0.5, or 2 where no replica is possible.
        out: (K, N, S, P) float64, filled with 0 and 1.
    """
    out.copy_(position)
    out.gt_(barred)


def sigmoid(velocity: Tensor, uniform: Tensor, usable: Tensor, out: Tensor) -> None:
    """Binary PSO of Kennedy and Eberhart: x = 1 with probability sigmoid(velocity), every bit by its own number.

    The comparison u < 1 / (1 + e^-v) is made as u (1 + e^-v) < 1, with e^-v by arithmetic alone.
    """
    torch.mul(velocity, -1 / 16, out=out)  # |v| <= 4: e^(-v/16) by its series, then to the 16th power
    series = torch.ones_like(out)
    for power in range(8, 0, -1):
        series.mul_(out).mul_(1 / power).add_(1)
    for _ in range(4):
        series.mul_(series)
    out.copy_(series).add_(1).mul_(uniform)
    out.lt_(1.0).mul_(usable)


def priority(position: Tensor, share: Tensor, usable: Tensor, out: Tensor) -> Tensor:
    """For each task the vehicles in descending position, until their shares reach one.

    The result covers every task and does not without the last vehicle taken.

    Args:
        position: (K, N, S, P).
        share: (K, N, S, 1) share of the task's need that a replica there covers.
        usable: (K, N, S, 1) 1 where a replica is possible, else 0.
        out: (K, N, S, P) float64, filled with 0 and 1.

    Returns:
        (K, S, P) the shares taken, added in descending order.
    """
    key = position.double()
    key.add_(1).mul_(usable).sub_(1)  # -1: no vehicle to take
    taken = _take(key, out, position.shape[1], share)
    assert taken is not None
    return taken


def highest(position: Tensor, count: int, usable: Tensor, out: Tensor) -> None:
    """For each task the ``count`` vehicles of highest position among those above one half."""
    key = position.double()
    key.mul_(usable)
    key.sub_(key.le(0.5).double().mul_(2))
    _take(key, out, count, None)


def _take(key: Tensor, out: Tensor, rounds: int, share: Tensor | None) -> Tensor | None:
    """Take the best remaining vehicle of every task again and again; ties go to the earlier one. Spends ``key``."""
    vehicles = key.shape[1]
    out.zero_()
    taken = None if share is None else torch.zeros_like(key[:, 0])
    for _ in range(min(rounds, vehicles)):
        best = key[:, 0].clone()
        for n in range(1, vehicles):
            torch.maximum(best, key[:, n], out=best)
        wanted = best.ge(0).double()
        if taken is not None:
            wanted.mul_(taken.lt(COVERED))
        if not bool(wanted.any()):
            break
        for n in range(vehicles):
            hit = torch.eq(key[:, n], best).double().mul_(wanted)
            wanted.sub_(hit)
            out[:, n].add_(hit)
            key[:, n].sub_(hit, alpha=4)
            if taken is not None and share is not None:
                taken.add_(hit.mul_(share[:, n]))
    return taken
