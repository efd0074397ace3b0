"""Improve an assignment by single moves whose effect on the quadratic objective has a closed form."""

import torch
from torch import Tensor

from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.objective import add_deltas, drop_deltas, loads

_COVERED = 1 - 1e-9
_GAIN = -1e-12


def polish(epoch: Epoch, assignment: Tensor, rounds: int | None = None) -> Tensor:
    """Best-improvement descent: drop a replica, or move it to another vehicle, as long as that lowers J.

    A move keeps every task covered that was covered. Every scenario makes its best move in each round, until none has
    one. Adding a replica alone never lowers J.

    Args:
        assignment: (S, K, N) bool.
        rounds: at most so many moves; None: until there is none.
    """
    assignment = assignment.clone()
    _, tasks, vehicles = assignment.shape
    if not tasks or not vehicles:
        return assignment
    limit = rounds if rounds is not None else 10 * tasks * vehicles
    for _ in range(limit):
        added = loads(epoch, assignment)
        add, drop = add_deltas(epoch, added), drop_deltas(epoch, added)
        # (S, K, N, N + 1): the replica on n goes to q, or, at the last place, nowhere.
        delta = torch.cat([drop[..., None] + add[:, :, None, :], drop[..., None]], dim=3)
        lost = epoch.cover(assignment)[:, :, None, None] - epoch.share[..., None]
        kept = torch.cat([lost + epoch.share[:, :, None, :], lost], dim=3) >= _COVERED
        free = torch.cat(
            [(epoch.usable & ~assignment)[:, :, None, :].expand(-1, -1, vehicles, -1), torch.ones_like(kept[..., :1])],
            3,
        )
        delta = torch.where(kept & free & assignment[..., None], delta, torch.inf)
        best, place = delta.flatten(1).min(1)
        moving = (best < _GAIN).nonzero()[:, 0]
        if not len(moving):
            break
        spot = place[moving]
        target = spot % (vehicles + 1)
        source = spot // (vehicles + 1) % vehicles
        task = spot // (vehicles + 1) // vehicles
        assignment[moving, task, source] = False
        arrives = target < vehicles
        assignment[moving[arrives], task[arrives], target[arrives]] = True
    return assignment
