"""What a swarm minimises: a cost, and how far every constraint is met, for all particles at once.

Tensors are (K, N, S, P) as in ``encodings``. Sums are folds, so that a particle's value does not depend on the batch.
"""

from typing import Protocol

import torch
from torch import Tensor

from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.folds import folded_product, folded_sum, halves


class Problem(Protocol):
    """Costs and slacks of assignments of one :class:`Epoch`."""

    epoch: Epoch

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cost (S, P), and slack (K, S, P): at least 0 where the constraint is met, and 1 for padding.

        Both are overwritten by the next call. ``x`` is float64, 0 or 1.
        """
        ...


def _last(values: Tensor) -> Tensor:
    """(S, K, N) as (K, N, S, 1), or (S, K) as (K, S, 1)."""
    return values.movedim(0, -1).unsqueeze(-1).contiguous()


class LeastLatency:
    """CAVE's problem: least latency, with every task's reliability target as a constraint.

    Args:
        particles: P.
        objective: ``sum`` of the latencies of all replicas, which is quadratic; or per task its ``first`` replica's or
            the ``mean`` over its replicas, beside the harm to the replicas in progress.
    """

    def __init__(self, epoch: Epoch, particles: int, objective: str = "sum") -> None:
        self.epoch, self.objective = epoch, objective
        tasks, vehicles = epoch.count, epoch.slots
        self.root = _last(epoch.root)
        self.load = _last(epoch.load)
        self.twice = 2 * self.load
        self.inverse = 1 / _last(epoch.divisor)
        self.cost = _last(epoch.weight[:, :, None] * epoch.communication)
        self.share = _last(epoch.share)
        self.padding = 2.0 * ~_last(epoch.open) - 1
        # Load and communication that each replica adds, side by side: one fold over tasks sums both.
        self.adds = torch.stack([self.root[:, None].expand(self.cost.shape), self.cost])
        batch = (epoch.scenarios, particles)
        self.parts = torch.zeros((2, max(tasks, 1), vehicles, *batch), dtype=torch.float64, device=epoch.device)
        # Shares of every task, and below them what each vehicle costs: one fold over vehicles sums both.
        self.rows = torch.zeros((tasks + 1, max(vehicles, 1), *batch), dtype=torch.float64, device=epoch.device)
        self.over_tasks, self.over_vehicles = halves(self.parts, 1), halves(self.rows, 1)
        self.load_added, self.cost_added = self.parts[0, 0], self.parts[1, 0]
        self.filled = self.rows[:-1]
        self.each: Tensor | None = self.rows[-1] if vehicles else None
        self.slack, self.total = self.rows[:-1, 0], self.rows[-1, 0]

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Problem`."""
        if self.each is None:
            return self.total, self.slack.copy_(self.padding.expand_as(self.slack))
        if len(x):
            torch.mul(x, self.adds, out=self.parts)
            for into, other in self.over_tasks:
                into.add_(other)
        added = self.load_added
        if self.objective == "sum":
            torch.add(added, self.twice, out=self.each)
            self.each.mul_(added).mul_(self.inverse).add_(self.cost_added)
        torch.mul(x, self.share, out=self.filled)
        for into, other in self.over_vehicles:
            into.add_(other)
        self.slack.add_(self.padding)
        return (self.total if self.objective == "sum" else self._per_task(x, added)), self.slack

    def _per_task(self, x: Tensor, added: Tensor) -> Tensor:
        """The variants whose cost is a first or a mean latency per task."""
        latency = ((self.load + added) * self.inverse) * self.root[:, None] + self.cost
        replicas = folded_sum(x, 1)
        if self.objective == "first":
            shortest = torch.where(x > 0, latency, torch.inf).amin(1)
            each = torch.where(replicas > 0, shortest, 0.0)
        else:
            each = folded_sum(latency * x, 1) / replicas.clamp(min=1)
        return folded_sum(each, 0) + folded_sum(self.load * added * self.inverse, 0)


class MostReliable:
    """FPSO-MR's problem, adapted: least probability of failure, with a latency limit as the constraint.

    Args:
        particles: P.
        limit: seconds; a task's latency is the mean over its replicas with equal shares among the incoming ones.
    """

    def __init__(self, epoch: Epoch, particles: int, limit: float = 1.0) -> None:
        self.epoch, self.limit = epoch, limit
        self.success = _last(epoch.success)
        self.link = _last(epoch.communication)
        self.pace = _last(epoch.work)[:, None] / _last(epoch.divisor)
        self.here = _last(epoch.open).double()
        self.empty = torch.zeros(epoch.scenarios, particles, dtype=torch.float64, device=epoch.device)

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Problem`."""
        if not len(x):
            return self.empty, self.empty.expand(0, -1, -1)
        failure = folded_product(1 - x * self.success, 1) * self.here
        latency = folded_sum((self.link + self.pace * folded_sum(x, 0)) * x, 1)
        replicas = folded_sum(x, 1)
        slack = 1 - latency / (replicas.clamp(min=1) * self.limit)
        # A task without replicas meets no limit.
        slack = slack - 2 * self.here * (replicas == 0)
        return folded_sum(failure, 0), slack
