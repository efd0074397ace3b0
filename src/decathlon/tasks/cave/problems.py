"""What a swarm minimises: a cost and how far every constraint is met, for all particles at once.

Tensors are (K, N, S, P) as in ``encodings``; the sums run over slices in a fixed order, so that a particle's value
does not depend on the batch.
"""

from typing import Protocol

import torch
from torch import Tensor

from decathlon.tasks.cave.epoch import Epoch


class Problem(Protocol):
    """Costs and slacks of assignments of one :class:`Epoch`."""

    epoch: Epoch

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cost (S, P), and slack (K, S, P): at least 0 where the constraint is met, and 1 for padding."""
        ...


def _last(values: Tensor) -> Tensor:
    """(S, K, N) as (K, N, S, 1), or (S, K) as (K, S, 1)."""
    return values.movedim(0, -1).unsqueeze(-1).contiguous()


class LeastLatency:
    """CAVE's problem: least latency, with every task's reliability target as a constraint.

    Args:
        objective: ``sum`` of the latencies of all replicas, which is quadratic; or per task its ``first`` replica's or
            the ``mean`` over its replicas, beside the harm to the replicas in progress.
    """

    def __init__(self, epoch: Epoch, objective: str = "sum") -> None:
        self.epoch, self.objective = epoch, objective
        self.root = _last(epoch.root)
        self.load = _last(epoch.load)
        self.inverse = 1 / _last(epoch.divisor)
        self.cost = _last(epoch.weight[:, :, None] * epoch.communication)
        self.share = _last(epoch.share)
        self.padding = 2.0 * ~_last(epoch.open)

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Problem`."""
        tasks, vehicles = x.shape[:2]
        added = torch.zeros_like(x[0]) if tasks else x.new_zeros(x.shape[1:])
        part = torch.empty_like(added)
        for k in range(tasks):
            torch.mul(x[k], self.root[k], out=part)
            added.add_(part)
        if self.objective == "sum":
            each = added * (added + 2 * self.load) * self.inverse
            for k in range(tasks):
                torch.mul(x[k], self.cost[k], out=part)
                each.add_(part)
            cost = _sum_first(each)
        else:
            cost = self._per_task(x, added)
        slack = self.padding.repeat(1, 1, x.shape[3]) - 1
        part = torch.empty_like(slack)
        for n in range(vehicles):
            torch.mul(x[:, n], self.share[:, n], out=part)
            slack.add_(part)
        return cost, slack

    def _per_task(self, x: Tensor, added: Tensor) -> Tensor:
        """The variants whose cost is a first or a mean latency per task."""
        harm = _sum_first(self.load * added * self.inverse)
        level = (self.load + added) * self.inverse
        total = torch.zeros_like(harm)
        for k in range(len(x)):
            latency = level * self.root[k] + self.cost[k]
            replicas = _sum_first(x[k])
            if self.objective == "first":
                shortest = torch.where(x[k] > 0, latency, torch.inf).amin(0)
                total += torch.where(replicas > 0, shortest, 0.0)
            else:
                total += _sum_first(latency * x[k]) / replicas.clamp(min=1)
        return total + harm


class MostReliable:
    """FPSO-MR's problem, adapted: least probability of failure, with a latency limit as the constraint.

    Args:
        limit: seconds; a task's latency is the mean over its replicas with equal shares among the incoming ones.
    """

    def __init__(self, epoch: Epoch, limit: float = 1.0) -> None:
        self.epoch, self.limit = epoch, limit
        self.success = _last(epoch.success)
        self.link = _last(epoch.communication)
        self.work = _last(epoch.work)
        self.inverse = 1 / _last(epoch.divisor)
        self.here = _last(epoch.open).double()

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Problem`."""
        tasks, vehicles = x.shape[:2]
        failure = self.here.repeat(1, 1, x.shape[3])
        replicas, latency = torch.zeros_like(failure), torch.zeros_like(failure)
        for n in range(vehicles):
            sharing = _sum_first(x[:, n]) * self.inverse[n]
            failure.mul_(1 - x[:, n] * self.success[:, n])
            replicas.add_(x[:, n])
            latency.add_((self.link[:, n] + self.work * sharing) * x[:, n])
        latency.div_(replicas.clamp(min=1))
        slack = 1 - latency / self.limit
        # A task without replicas meets no limit.
        return _sum_first(failure), torch.where((replicas == 0) & (self.here > 0), -1.0, slack)


def _sum_first(x: Tensor) -> Tensor:
    """Sum over the first axis, slice after slice."""
    total = torch.zeros(x.shape[1:], dtype=x.dtype, device=x.device)
    for part in x:
        total += part
    return total
