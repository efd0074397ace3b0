"""The objective of the assignment problem, and what single changes of an assignment do to it."""

import torch
from torch import Tensor

from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.folds import folded_sum


def loads(epoch: Epoch, assignment: Tensor) -> Tensor:
    """(S, ..., N) load root that ``assignment`` (S, ..., K, N) adds to each vehicle."""
    root = epoch.root.view(epoch.scenarios, *[1] * (assignment.ndim - 3), epoch.count, 1)
    return folded_sum(assignment.double() * root, -2)


def objective(epoch: Epoch, assignment: Tensor) -> Tensor:
    """J, the sum of weighted latencies of all replicas under optimal shares, less what is there without the new ones.

    J(x) = sum_n ((B_n + L_n)^2 - B_n^2) / F_n + sum_kn w_k c_kn x_kn,  L_n = sum_k a_k x_kn. Convex and quadratic in x.
    The mixed term 2 B_n L_n / F_n is the time correlation: half of it is what running replicas do to new ones, half the
    harm of the new ones to them.

    Args:
        assignment: (S, ..., K, N) bool, or numbers of a relaxation.

    Returns:
        (S, ...) float64.
    """
    middle = [1] * (assignment.ndim - 3)
    added = loads(epoch, assignment)
    load = epoch.load.view(epoch.scenarios, *middle, epoch.slots)
    speed = epoch.divisor.view(epoch.scenarios, *middle, epoch.slots)
    compute = folded_sum(added * (added + 2 * load) / speed, -1)
    cost = (epoch.weight[:, :, None] * epoch.communication).view(epoch.scenarios, *middle, epoch.count, epoch.slots)
    return compute + folded_sum(folded_sum(assignment.double() * cost, -1), -1)


def gradient(epoch: Epoch, assignment: Tensor) -> Tensor:
    """(S, K, N) derivative of :func:`objective` by each entry of ``assignment`` (S, K, N)."""
    level = (epoch.load + loads(epoch, assignment)) / epoch.divisor
    return 2 * epoch.root[:, :, None] * level[:, None, :] + epoch.weight[:, :, None] * epoch.communication


def add_deltas(epoch: Epoch, added: Tensor) -> Tensor:
    """(S, K, N) change of J when task k gets a replica on vehicle n; ``added`` (S, N) as of :func:`loads`."""
    level, root = (epoch.load + added)[:, None, :], epoch.root[:, :, None]
    cost = epoch.weight[:, :, None] * epoch.communication
    return root * (2 * level + root) / epoch.divisor[:, None, :] + cost


def drop_deltas(epoch: Epoch, added: Tensor) -> Tensor:
    """(S, K, N) change of J when task k loses its replica on vehicle n."""
    level, root = (epoch.load + added)[:, None, :], epoch.root[:, :, None]
    cost = epoch.weight[:, :, None] * epoch.communication
    return -root * (2 * level - root) / epoch.divisor[:, None, :] - cost


def latencies(epoch: Epoch, assignment: Tensor) -> Tensor:
    """(S, ..., K, N) latency of every replica with optimal shares; infinite where there is none."""
    middle = [1] * (assignment.ndim - 3)
    level = epoch.load.view(epoch.scenarios, *middle, 1, epoch.slots) + loads(epoch, assignment).unsqueeze(-2)
    rate = (epoch.root / epoch.weight).view(epoch.scenarios, *middle, epoch.count, 1)
    speed = epoch.divisor.view(epoch.scenarios, *middle, 1, epoch.slots)
    link = epoch.communication.view(epoch.scenarios, *middle, epoch.count, epoch.slots)
    return torch.where(assignment.bool(), link + rate * level / speed, torch.inf)
