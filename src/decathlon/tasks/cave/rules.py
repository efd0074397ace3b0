"""Rules that need no search: covers in a fixed order, and the greedy rule of least marginal cost."""

import torch
from torch import Tensor

from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.objective import add_deltas, loads

COVERED = 1 - 1e-9


def cover_in_order(epoch: Epoch, order: Tensor) -> Tensor:
    """For each task the usable vehicles in ascending ``order`` (S, K, N), until the task is covered.

    Returns:
        (S, K, N) bool.
    """
    order = torch.where(epoch.usable, order.nan_to_num(torch.inf, torch.inf), torch.inf)
    # Unusable vehicles last, also behind usable ones of infinite order.
    first = order.argsort(dim=2, stable=True)
    place = first.gather(2, epoch.usable.gather(2, first).byte().argsort(dim=2, stable=True, descending=True))
    share = epoch.share.gather(2, place)
    before = share.cumsum(2) - share
    usable = epoch.usable.gather(2, place)
    taken = (before < COVERED) & usable & epoch.open[:, :, None]
    return torch.zeros_like(taken).scatter_(2, place, taken)


def complete(epoch: Epoch, assignment: Tensor) -> Tensor:
    """Add replicas until every task is covered: repeatedly the one of least marginal cost per need that it covers.

    Tasks come in descending size; the loads of the replicas so far count. From an empty assignment this is ``greedy``.
    """
    assignment = assignment.clone()
    if not epoch.count or not epoch.slots:
        return assignment
    order = torch.where(epoch.tasks, epoch.root, -1.0).argsort(dim=1, stable=True, descending=True)
    scenario = torch.arange(epoch.scenarios, device=epoch.device)
    for place in range(epoch.count):
        task = order[:, place]
        for _ in range(epoch.slots):
            cover = epoch.cover(assignment)[scenario, task]
            free = (epoch.usable & ~assignment)[scenario, task]
            wanting = epoch.open[scenario, task] & (cover < COVERED) & free.any(1)
            if not bool(wanting.any()):
                break
            delta = add_deltas(epoch, loads(epoch, assignment))[scenario, task]
            useful = torch.minimum(epoch.share[scenario, task], (1 - cover)[:, None])
            price = torch.where(free, delta / useful.clamp(min=1e-300), torch.inf)
            chosen = price.argmin(1)
            assignment[scenario[wanting], task[wanting], chosen[wanting]] = True
    return assignment


def greedy(epoch: Epoch) -> Tensor:
    """(S, K, N) assignment of the greedy rule."""
    return complete(epoch, torch.zeros_like(epoch.usable))


def no_replica(epoch: Epoch, assignment: Tensor) -> Tensor:
    """(S, K) bool: tasks that could have a replica and have none."""
    return epoch.open & ~assignment.any(2)
