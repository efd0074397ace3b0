"""Particle swarm optimisation with an adaptive barrier, over many scenarios and particles at once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.tasks.cave import encodings, steady
from decathlon.tasks.cave.problems import Problem
from decathlon.tasks.cave.streams import FastPairs

BARRIERS = ("log", "hinge")
ADAPTATIONS = ("adaptive", "static", "death")
EDGE = 0.05
_GROUP = 100  # factors of the log barrier that are multiplied before one logarithm is taken
_FEASIBLE = -1e-9


@dataclass(frozen=True)
class Swarm:
    """How a swarm moves, and how it treats constraints.

    Attributes:
        particles, iterations: size and length.
        encoding: ``threshold``, ``sigmoid`` or ``priority``, see ``encodings``.
        barrier: ``log``, a relaxed logarithmic barrier with its tangent where the constraint is violated, or ``hinge``.
        adaptation: of the barrier's factor beta. ``adaptive`` raises it while fewer than 30 % of the particles are
            feasible and lowers it above 60 %; ``static`` keeps the scale of the objective; ``death`` forbids.
        inertia: omega at the first and the last iteration.
        pull: the weights of personal and global best. bound: of each component of the velocity.
        growth: factor of beta per iteration.
        most: at most so many replicas per task, the highest positions; None: any number (``threshold`` only).
    """

    particles: int = 40
    iterations: int = 60
    encoding: str = "threshold"
    barrier: str = "log"
    adaptation: str = "adaptive"
    inertia: tuple[float, float] = (0.9, 0.4)
    pull: float = 1.5
    bound: float = 0.5
    growth: float = 1.25
    most: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("encoding", encodings.ENCODINGS), ("barrier", BARRIERS), ("adaptation", ADAPTATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)} is unknown; choose {', '.join(choices)}")
        if self.particles < 1 or self.iterations < 1:
            raise ValueError(f"particles={self.particles} and iterations={self.iterations} must be at least 1")
        if not self.growth > 1 or not self.bound > 0 or not self.pull >= 0:
            raise ValueError("growth must be above 1, bound positive and pull not negative")

    def search(self, problem: Problem, keys: Tensor) -> "Found":
        """Minimise ``problem``; ``keys`` (S,) name the random streams of its scenarios."""
        return _Search(self, problem, keys).run()


@dataclass
class Found:
    """What a swarm has found.

    Attributes:
        assignment: (S, K, N) bool: the best feasible one by cost alone, or else the one with the least violation.
        feasible: (S,) bool.
        history: (iterations, S) cost of the best feasible assignment so far; infinite before there is one.
    """

    assignment: Tensor
    feasible: Tensor
    history: Tensor


class _Search:
    """The state of one search. Positions are (K, N, S, P) in float32, costs in float64."""

    def __init__(self, swarm: Swarm, problem: Problem, keys: Tensor) -> None:
        self.swarm, self.problem = swarm, problem
        epoch = problem.epoch
        self.shape = (epoch.count, epoch.slots, epoch.scenarios, swarm.particles)
        device = epoch.device
        self.usable = epoch.usable.movedim(0, -1).unsqueeze(-1).double().contiguous()
        self.barred = 2.0 - 1.5 * self.usable
        self.share = epoch.share.movedim(0, -1).unsqueeze(-1).contiguous()
        self.random = FastPairs(keys, swarm.iterations * 2 + 1, (epoch.count, epoch.slots, swarm.particles))
        self.z, self.v, self.first, self.second, self.gap, self.best = (
            torch.empty(self.shape, dtype=torch.float32, device=device) for _ in range(6)
        )
        self.x = torch.empty(self.shape, dtype=torch.float64, device=device)
        self._start(_ranks(epoch.alone / epoch.share.clamp(max=1), epoch.usable))
        tasks = epoch.open.sum(1).clamp(min=1)
        self.open_tasks = tasks.double()

    def _start(self, rank: Tensor) -> None:
        rank = rank.movedim(0, -1).unsqueeze(-1).float()
        self.random.draw(0, self.z, self.v)
        if self.swarm.encoding == "priority":
            self.z.mul_(0.5).add_(0.5 * (1 - rank))
        else:
            self.z.mul_(1 - 0.5 * rank)
        self.v.mul_(0.4).sub_(0.2)
        self.best.copy_(self.z)

    def _decode(self, step: int) -> None:
        if self.swarm.encoding == "priority":
            encodings.priority(self.z, self.share, self.usable, self.x)
        elif self.swarm.encoding == "sigmoid":
            self.random.draw(self.swarm.iterations + 1 + step, self.first)
            encodings.sigmoid(self.v, self.first, self.usable, self.x)
            self.z.copy_(self.x)  # in binary PSO the position is the bit
        elif self.swarm.most is not None:
            encodings.highest(self.z, self.swarm.most, self.usable, self.x)
        else:
            encodings.threshold(self.z, self.barred, self.x)

    def run(self) -> Found:
        swarm, (tasks, vehicles, scenarios, particles) = self.swarm, self.shape
        device = self.x.device
        infinite = torch.full((scenarios, particles), math.inf, dtype=torch.float64, device=device)
        best_cost, best_barrier = infinite, torch.zeros_like(infinite)
        archive_cost = infinite[:, 0].clone()
        archive_z = torch.zeros(tasks, vehicles, scenarios, device=device)
        archive_x = torch.zeros(tasks, vehicles, scenarios, dtype=torch.float64, device=device)
        least_violation = infinite[:, 0].clone()
        scale = beta = torch.zeros(scenarios, dtype=torch.float64, device=device)
        history = []
        for step in range(swarm.iterations):
            self._decode(step)
            cost, slack = self.problem.evaluate(self.x)
            violation = _violation(slack)
            feasible = _least(slack) >= _FEASIBLE
            barrier = violation if swarm.barrier == "hinge" else log_barrier(slack)
            if swarm.encoding == "priority":
                barrier = torch.zeros_like(cost)
            if step == 0:
                scale = cost.median(1).values / self.open_tasks
                beta = scale * (1e6 if swarm.adaptation == "death" else 1.0)
            if swarm.adaptation == "adaptive":
                beta = self._adapt(beta, scale, feasible.double().mean(1))
            # The archive, by cost alone: the best feasible assignment, or else the least violation.
            value, place = torch.where(feasible, cost, math.inf).min(1)
            better = value < archive_cost
            lacking = archive_cost.isinf() & ~better
            less, least_place = violation.min(1)
            closer = lacking & (less < least_violation)
            least_violation = torch.where(closer, less, least_violation)
            taken = torch.where(better, place, least_place)
            self._keep(archive_z, self.z, taken, better)
            self._keep(archive_x, self.x, taken, better | closer)
            archive_cost = torch.where(better, value, archive_cost)
            history.append(archive_cost)
            # Personal bests are scored with the present beta before they are compared.
            fit = cost + beta[:, None] * barrier
            best_fit = best_cost + beta[:, None] * best_barrier
            won = fit < best_fit
            self.best.lerp_(self.z, won.float().expand(self.shape))
            best_cost = torch.where(won, cost, best_cost)
            best_barrier = torch.where(won, barrier, best_barrier)
            leader = archive_z
            lacking = archive_cost.isinf()
            if bool(lacking.any()):
                best_place = (best_cost + beta[:, None] * best_barrier).min(1).indices
                leader = archive_z.clone()
                self._keep(leader, self.best, best_place, lacking)
            if step + 1 < swarm.iterations:
                self._move(step, leader)
        assignment = archive_x.bool().movedim(-1, 0).contiguous()
        return Found(assignment, archive_cost.isfinite(), torch.stack(history))

    def _adapt(self, beta: Tensor, scale: Tensor, share: Tensor) -> Tensor:
        """Beta after one iteration, given the share of feasible particles."""
        growth = self.swarm.growth
        beta = torch.where(share < 0.3, beta * growth, torch.where(share > 0.6, beta / growth, beta))
        return torch.maximum(torch.minimum(beta, 1e3 * scale), 1e-2 * scale)

    @staticmethod
    def _keep(kept: Tensor, every: Tensor, place: Tensor, where: Tensor) -> None:
        """Copy particle ``place`` (S,) of ``every`` (K, N, S, P) into ``kept`` (K, N, S) where ``where`` (S,) says."""
        if bool(where.any()):
            rows = where.nonzero()[:, 0]
            kept[:, :, rows] = every[:, :, rows, place[rows]]

    def _move(self, step: int, leader: Tensor) -> None:
        swarm, z, v, gap = self.swarm, self.z, self.v, self.gap
        self.random.draw(step + 1, self.first, self.second, scale=swarm.pull)
        done = step / max(swarm.iterations - 1, 1)
        v.mul_(swarm.inertia[0] + (swarm.inertia[1] - swarm.inertia[0]) * done)
        torch.sub(self.best, z, out=gap)
        v.add_(gap.mul_(self.first))
        torch.sub(leader.unsqueeze(-1), z, out=gap)
        v.add_(gap.mul_(self.second))
        if swarm.encoding == "sigmoid":
            v.clamp_(-encodings.SIGMOID_BOUND, encodings.SIGMOID_BOUND)
            return
        v.clamp_(-swarm.bound, swarm.bound)
        z.add_(v)
        # Where a position left [0, 1] the velocity turns round, at half its size.
        torch.clamp(z, 0, 1, out=gap)
        z.sub_(gap).ne_(0).mul_(v).mul_(1.5)
        v.sub_(z)
        z.copy_(gap)


def log_barrier(slack: Tensor) -> Tensor:
    """(S, P) sum over tasks of the relaxed logarithmic barrier of ``slack`` (K, S, P).

    b(s) = -ln((min(s, 1) + e) / (1 + e)) for s >= 0 and its tangent at 0 below, e = 0.05. The logarithms are taken
    of products over tasks.
    """
    factors = slack.clamp(0, 1).add_(EDGE).div_(1 + EDGE)  # exactly 1 for padding
    total = _violation(slack).mul_(1 / EDGE)
    for start in range(0, len(factors), _GROUP):
        product = factors[start].clone()
        for factor in factors[start + 1 : start + _GROUP]:
            product.mul_(factor)
        total.sub_(steady.log(product))
    return total


def _violation(slack: Tensor) -> Tensor:
    """(S, P) sum over tasks of how far ``slack`` is below zero."""
    total = torch.zeros(slack.shape[1:], dtype=slack.dtype, device=slack.device)
    for each in slack:
        total.sub_(each.clamp(max=0))
    return total


def _least(slack: Tensor) -> Tensor:
    return slack.amin(0) if len(slack) else torch.ones(slack.shape[1:], dtype=slack.dtype, device=slack.device)


def _ranks(cost: Tensor, usable: Tensor) -> Tensor:
    """(S, K, N) rank of every vehicle for a task, 0 the cheapest, 1 the dearest; unusable ones come last."""
    count = cost.shape[2]
    order = torch.where(usable, cost.nan_to_num(torch.inf), torch.inf).argsort(dim=2, stable=True)
    ranks = torch.empty_like(cost)
    places = torch.arange(count, dtype=cost.dtype, device=cost.device)
    ranks.scatter_(2, order, places.expand_as(ranks).contiguous())
    return ranks / max(count - 1, 1)
