"""From a particle's position to an assignment. Positions are (K, N, S, P): tasks, vehicles, scenarios, particles.

The batch comes last, so that a sum over tasks or vehicles adds long contiguous slices.
"""

import torch
from torch import Tensor

from decathlon.tasks.cave.folds import folded_sum

ENCODINGS = ("threshold", "sigmoid", "priority")
COVERED = 1 - 1e-9
SIGMOID_BOUND = 4.0
"""Largest velocity of binary PSO."""
_TIE = 2.0**-40


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
    out.copy_(velocity).mul_(-1 / 16)  # |v| <= 4: e^(-v/16) by its series, then to the 16th power
    series = torch.ones_like(out)
    for power in range(8, 0, -1):
        series.mul_(out).mul_(1 / power).add_(1)
    for _ in range(4):
        series.mul_(series)
    out.copy_(series).add_(1).mul_(uniform)
    out.lt_(1.0).mul_(usable)


def priority(position: Tensor, share: Tensor, usable: Tensor, out: Tensor) -> None:
    """For each task the vehicles in descending position, until their shares reach one.

    The result covers every task that can be covered, and does not without the last vehicle taken. Positions closer
    than 1e-11 count as equal; the earlier vehicle is then taken first.

    Args:
        position: (K, N, S, P).
        share: (K, N, S, 1) share of the task's need that a replica there covers.
        usable: (K, N, S, 1) 1 where a replica is possible, else 0.
        out: (K, N, S, P) float64, filled with 0 and 1.
    """
    _take(position, usable, 0.0, position.shape[1], share, out)


def highest(position: Tensor, count: int, usable: Tensor, out: Tensor) -> None:
    """For each task the ``count`` vehicles of highest position among those above one half."""
    _take(position, usable, 0.5, count, None, out)


def _take(position: Tensor, usable: Tensor, least: float, rounds: int, share: Tensor | None, out: Tensor) -> None:
    """Take the best remaining vehicle of every task again and again, while its position is at least ``least``."""
    vehicles = position.shape[1]
    out.zero_()
    if not vehicles:
        return
    key = position.double()
    places = torch.arange(vehicles, dtype=torch.float64, device=key.device)
    key.add_(1 - _TIE * places[:, None, None]).mul_(usable)  # from 1 to 2, or 0 where no replica is possible
    least += 1 - _TIE * vehicles
    hit, part = torch.empty_like(key), torch.empty_like(key)
    taken = torch.zeros_like(key[:, :1])
    for _ in range(min(rounds, vehicles)):
        best = key.amax(1, keepdim=True)
        wanted = best.ge(least)
        if share is not None:
            wanted &= taken < COVERED
        if not bool(wanted.any()):
            break
        hit.copy_(key).ge_(best).mul_(wanted.double())
        out.add_(hit)
        key.sub_(part.copy_(hit).mul_(4))
        if share is not None:
            torch.mul(hit, share, out=part)
            taken.add_(folded_sum(part, 1).unsqueeze(1))
