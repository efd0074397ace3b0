"""Every method as a planner: ``assign(epoch, scenarios, step)`` returns a :class:`Plan`.

``scenarios`` (S,) are the ids of the scenarios and ``step`` the number of the decision; together with the planner's
seed they name its random numbers. A planner's ``allocation`` is how its vehicles share their compute.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from decathlon.tasks.cave import streams
from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.objective import objective
from decathlon.tasks.cave.optimum import optimum
from decathlon.tasks.cave.plan import Plan
from decathlon.tasks.cave.polish import polish
from decathlon.tasks.cave.problems import LeastLatency, MostReliable, Problem
from decathlon.tasks.cave.rules import complete, cover_in_order, greedy, no_replica
from decathlon.tasks.cave.swarm import Found, Swarm

ALLOCATIONS = ("sqrt", "equal", "proportional", "srpt")
OBJECTIVES = ("sum", "first", "mean")
CHUNK = 1 << 16
"""Elements of a swarm that are worked on together: what fits in a core's cache."""


class Planner(Protocol):
    """A method."""

    allocation: str

    def assign(self, epoch: Epoch, scenarios: Tensor | None = None, step: int = 0) -> Plan:
        """Decide for all scenarios of ``epoch``."""
        ...


def checked_allocation(allocation: str) -> str:
    """``allocation``, if there is one of that name."""
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation={allocation} is unknown; choose {', '.join(ALLOCATIONS)}")
    return allocation


class Cave:
    """CAVE: least latency under reliability targets, by a particle swarm with an adaptive barrier.

    A re-implementation from the paper's abstract (arXiv 2408.00621); what it leaves open is our reconstruction.

    Args:
        particles, iterations, seed: of the swarm.
        encoding, barrier, adaptation: see :class:`Swarm`.
        objective: ``sum`` over all replicas (quadratic), or per task the ``first`` replica's latency or the ``mean``.
        in_progress: whether the planner sees the replicas that are running. False plans as if vehicles were idle.
        polish: improve the swarm's answer by single moves (our addition; ``objective=sum`` only).
        greedy: take the greedy rule's assignment where it is better (our addition).
        allocation: how vehicles share their compute.
    """

    def __init__(
        self,
        particles: int = 40,
        iterations: int = 60,
        seed: int = 0,
        encoding: str = "threshold",
        barrier: str = "log",
        adaptation: str = "adaptive",
        objective: str = "sum",
        in_progress: bool = True,
        polish: bool = False,
        greedy: bool = False,
        allocation: str = "sqrt",
    ) -> None:
        self.swarm = Swarm(int(particles), int(iterations), encoding, barrier, adaptation)
        if objective not in OBJECTIVES:
            raise ValueError(f"objective={objective} is unknown; choose {', '.join(OBJECTIVES)}")
        if polish and objective != "sum":
            raise ValueError(f"polish needs the quadratic objective=sum, not objective={objective}")
        self.seed, self.objective, self.in_progress = int(seed), objective, in_progress
        self.polish, self.greedy, self.allocation = polish, greedy, checked_allocation(allocation)

    def assign(self, epoch: Epoch, scenarios: Tensor | None = None, step: int = 0) -> Plan:
        """Plan all scenarios; without ``scenarios`` they are numbered from 0."""
        seen = epoch if self.in_progress else epoch.replaced(load=torch.zeros_like(epoch.load))
        found = swarmed(seen, self.swarm, self._problem, _keys(epoch, scenarios, self.seed, step))
        assignment = complete(seen, found.assignment)
        if self.polish:
            assignment = polish(seen, assignment)
        if self.greedy:
            assignment = _better(seen, assignment, greedy(seen))
        return Plan.of(epoch, assignment, found.history)

    def _problem(self, epoch: Epoch) -> Problem:
        return LeastLatency(epoch, self.swarm.particles, self.objective)


class FpsoMr:
    """FPSO-MR (Hou et al., 2020) adapted to this problem: most reliability under a latency limit.

    It sees no replicas in progress, and starts at most ``replicas`` of each task.
    """

    def __init__(
        self,
        particles: int = 40,
        iterations: int = 60,
        seed: int = 0,
        limit: float = 1.0,
        replicas: int = 3,
        allocation: str = "equal",
    ) -> None:
        if not limit > 0:
            raise ValueError(f"limit={limit} must be positive")
        if replicas < 1:
            raise ValueError(f"replicas={replicas} must be at least 1")
        self.swarm = Swarm(int(particles), int(iterations), barrier="hinge", most=int(replicas))
        self.seed, self.limit, self.allocation = int(seed), limit, checked_allocation(allocation)

    def assign(self, epoch: Epoch, scenarios: Tensor | None = None, step: int = 0) -> Plan:
        """Plan all scenarios."""
        seen = epoch.replaced(load=torch.zeros_like(epoch.load))
        found = swarmed(seen, self.swarm, self._problem, _keys(epoch, scenarios, self.seed, step))
        # A task without any replica gets its quickest vehicle.
        quickest = torch.where(seen.usable, seen.nominal, torch.inf).argmin(2, keepdim=True) if seen.slots else None
        assignment = found.assignment
        if quickest is not None:
            single = torch.zeros_like(assignment).scatter_(2, quickest, True)
            assignment = assignment | (single & no_replica(seen, assignment)[:, :, None])
        return Plan.of(epoch, assignment, found.history)

    def _problem(self, epoch: Epoch) -> Problem:
        return MostReliable(epoch, self.swarm.particles, self.limit)


class Greedy:
    """Least marginal cost per need covered, largest tasks first: the strongest cheap rule."""

    def __init__(self, allocation: str = "sqrt", polish: bool = False) -> None:
        self.allocation, self.polish = checked_allocation(allocation), polish

    def assign(self, epoch: Epoch, scenarios: Tensor | None = None, step: int = 0) -> Plan:
        """Plan all scenarios."""
        assignment = greedy(epoch)
        return Plan.of(epoch, polish(epoch, assignment) if self.polish else assignment)


class Cover:
    """Add vehicles in a fixed order until the target is reached.

    Args:
        order: ``random``; ``nearest`` (or best link, without distances) or ``contact`` (longest in range), the ego
            last; or ``quickest``, by the latency that the task would have alone on an idle vehicle (the paper's
            baseline, reconstructed).
    """

    ORDERS = ("random", "nearest", "contact", "quickest")

    def __init__(self, order: str, seed: int = 0, allocation: str = "equal") -> None:
        if order not in self.ORDERS:
            raise ValueError(f"order={order} is unknown; choose {', '.join(self.ORDERS)}")
        self.order, self.seed, self.allocation = order, int(seed), checked_allocation(allocation)

    def assign(self, epoch: Epoch, scenarios: Tensor | None = None, step: int = 0) -> Plan:
        """Plan all scenarios."""
        shape = epoch.usable.shape
        seen = epoch
        if self.order == "random":
            keys = _keys(epoch, scenarios, self.seed, step)
            k, n = (torch.arange(size, device=epoch.device) for size in shape[1:])
            order = streams.uniform(keys[:, None, None], k[:, None], n)
        elif self.order == "quickest":
            seen = epoch.replaced(load=torch.zeros_like(epoch.load))
            order = seen.nominal.clone()
        else:
            order = -epoch.contact
            if self.order == "nearest":
                order = epoch.distance if epoch.distance is not None else -epoch.rate
            if epoch.local:
                order = order.clone()
                order[:, 0] = torch.inf
            order = order[:, None, :].expand(shape)
        return Plan.of(epoch, cover_in_order(seen, order))


class Local:
    """Every task on the ego vehicle itself."""

    def __init__(self, allocation: str = "equal") -> None:
        self.allocation = checked_allocation(allocation)

    def assign(self, epoch: Epoch, scenarios: Tensor | None = None, step: int = 0) -> Plan:
        """Plan all scenarios.

        Raises:
            ValueError: the ego is no candidate.
        """
        if not epoch.local:
            raise ValueError("method=local needs local=true, the ego vehicle as a candidate")
        assignment = torch.zeros_like(epoch.usable)
        assignment[:, :, 0] = epoch.open & epoch.usable[:, :, 0]
        return Plan.of(epoch, assignment)


class Exact:
    """The optimum of every decision, see :func:`optimum`.

    Args:
        seconds: time limit for each decision; the greedy answer, or a better one known by then, is used after it.
    """

    def __init__(self, allocation: str = "sqrt", seconds: float | None = None) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"seconds={seconds} must be positive")
        self.allocation, self.seconds = checked_allocation(allocation), seconds

    def assign(self, epoch: Epoch, scenarios: Tensor | None = None, step: int = 0) -> Plan:
        """Plan all scenarios."""
        return optimum(epoch, self.seconds)


def swarmed(epoch: Epoch, swarm: Swarm, problem: Callable[[Epoch], Problem], keys: Tensor) -> Found:
    """Search all scenarios: those with many tasks first, in parts that fit in the cache, each as small as its tasks."""
    counts = (
        (epoch.tasks * torch.arange(1, epoch.count + 1, device=epoch.device)).amax(1).tolist() if epoch.count else []
    )
    order = sorted(range(len(counts)), key=lambda place: -counts[place])
    assignment = torch.zeros_like(epoch.usable)
    feasible = torch.ones(epoch.scenarios, dtype=torch.bool, device=epoch.device)
    history = torch.zeros(swarm.iterations, epoch.scenarios, dtype=torch.float64, device=epoch.device)
    start = 0
    while start < len(order):
        tasks = counts[order[start]]
        end = start + max(1, CHUNK // max(1, tasks * epoch.slots * swarm.particles))
        rows = torch.tensor(order[start:end], device=epoch.device)
        if tasks:
            found = swarm.search(problem(epoch.narrowed(rows, tasks)), keys[rows])
            assignment[rows, :tasks] = found.assignment
            feasible[rows], history[:, rows] = found.feasible, found.history
        start = end
    return Found(assignment, feasible, history)


def _keys(epoch: Epoch, scenarios: Tensor | None, seed: int, step: int) -> Tensor:
    if scenarios is None:
        scenarios = torch.arange(epoch.scenarios, device=epoch.device)
    scenarios = torch.as_tensor(scenarios, device=epoch.device)
    if scenarios.shape != (epoch.scenarios,):
        raise ValueError(f"scenarios has shape {tuple(scenarios.shape)}, not ({epoch.scenarios},)")
    return streams.key(scenarios, seed, "planner", step)


def _better(epoch: Epoch, first: Tensor, second: Tensor) -> Tensor:
    """Per scenario the assignment of lower J, ``first`` when equal."""
    wins = objective(epoch, second) < objective(epoch, first)
    return torch.where(wins[:, None, None], second, first)
