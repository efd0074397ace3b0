"""Particle swarm optimisation with an adaptive barrier, over many scenarios and particles at once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.tasks.cave import encodings, steady
from decathlon.tasks.cave.folds import folded_product, folded_sum
from decathlon.tasks.cave.problems import Problem
from decathlon.tasks.cave.streams import FastUniform

BARRIERS = ("log", "hinge")
ADAPTATIONS = ("adaptive", "static", "death")
EDGE = 0.05
_GROUP = 128  # factors of the log barrier that are multiplied before a logarithm is taken
_MET = 1e-9


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

    def factors(self) -> list[float]:
        """By what beta is multiplied when 0, 1, … of the particles are feasible."""
        if self.adaptation != "adaptive":
            return [1.0] * (self.particles + 1)
        shares = [count / self.particles for count in range(self.particles + 1)]
        return [self.growth if share < 0.3 else 1 / self.growth if share > 0.6 else 1.0 for share in shares]


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
    """The state of one search. Positions are (K, N, S, P) in float32, costs in float64.

    Few large operations into buffers that stay: for small problems the cost is that of handing out operations.
    """

    def __init__(self, swarm: Swarm, problem: Problem, keys: Tensor) -> None:
        self.swarm, self.problem = swarm, problem
        epoch = problem.epoch
        shape = (epoch.count, epoch.slots, epoch.scenarios, swarm.particles)
        device = epoch.device
        self.usable = epoch.usable.movedim(0, -1).unsqueeze(-1).double().contiguous()
        self.barred = 2.0 - 1.5 * self.usable
        self.share = epoch.share.movedim(0, -1).unsqueeze(-1).contiguous()
        self.random = FastUniform(keys, swarm.iterations * 2 + 1, (epoch.count, epoch.slots, swarm.particles))
        self.z, self.v, self.gap, self.best = (torch.empty(shape, dtype=torch.float32, device=device) for _ in range(4))
        self.x = torch.empty(shape, dtype=torch.float64, device=device)
        self.tasks = epoch.open.sum(1).clamp(min=1).double()
        self._start(_ranks(epoch.alone / epoch.share.clamp(max=1), epoch.usable))
        kept = (*shape[:2], epoch.scenarios)
        self.leader = torch.zeros(kept, dtype=torch.float32, device=device)
        self.answer = torch.zeros(kept, dtype=torch.float64, device=device)
        self.value = torch.full((epoch.scenarios,), math.inf, dtype=torch.float64, device=device)
        self.violation = self.value.clone()
        self.lacking = True  # whether some scenario may have no feasible assignment yet

    def _start(self, rank: Tensor) -> None:
        rank = rank.movedim(0, -1).unsqueeze(-1).float()
        first, second = self.random.draw(0)
        if self.swarm.encoding == "priority":
            self.z.copy_(first).mul_(0.5).add_(0.5 * (1 - rank))
        else:
            self.z.copy_(first).mul_(1 - 0.5 * rank)
        self.v.copy_(second).mul_(0.4).sub_(0.2)
        self.best.copy_(self.z)

    def _decode(self, step: int) -> None:
        if self.swarm.encoding == "priority":
            encodings.priority(self.z, self.share, self.usable, self.x)
        elif self.swarm.encoding == "sigmoid":
            uniform, _ = self.random.draw(self.swarm.iterations + 1 + step)
            encodings.sigmoid(self.v, uniform, self.usable, self.x)
            self.z.copy_(self.x)  # in binary PSO the position is the bit
        elif self.swarm.most is not None:
            encodings.highest(self.z, self.swarm.most, self.usable, self.x)
        else:
            encodings.threshold(self.z, self.barred, self.x)

    def run(self) -> Found:
        swarm = self.swarm
        device = self.x.device
        factors = torch.tensor(swarm.factors(), dtype=torch.float64, device=device)
        low = high = beta = torch.zeros(0, 1, dtype=torch.float64, device=device)
        best = torch.zeros(2, *self.x.shape[2:], dtype=torch.float64, device=device)  # cost and barrier, personal bests
        history = []
        for step in range(swarm.iterations):
            self._decode(step)
            cost, slack = self.problem.evaluate(self.x)
            violation = folded_sum(slack.clamp(max=0), 0).neg_()
            feasible = violation <= _MET
            if swarm.encoding == "priority":
                barrier = torch.zeros_like(cost)
            else:
                barrier = violation if swarm.barrier == "hinge" else log_barrier(slack, violation)
            if step == 0:
                scale = (cost.median(1).values / self.tasks)[:, None]
                beta = scale * (1e6 if swarm.adaptation == "death" else 1.0)
                low, high = (scale * 1e-2, scale * 1e3) if swarm.adaptation == "adaptive" else (beta, beta)
            beta = (beta * factors[feasible.sum(1, keepdim=True)]).clamp(low, high)
            self._archive(cost, violation, feasible)
            history.append(self.value)
            # Personal bests are scored with the present beta before they are compared.
            now = torch.stack([cost, barrier])
            if step == 0:
                best = now
            else:
                won = now[0] + beta * now[1] < best[0] + beta * best[1]
                self.best.lerp_(self.z, won.float().expand(self.z.shape))
                best = torch.where(won, now, best)
            if self.lacking:  # led by the personal best of least fit as long as nothing is feasible
                place = (best[0] + beta * best[1]).min(1).indices
                self._keep(self.leader, self.best, place, self.value.isinf())
            if step + 1 < swarm.iterations:
                self._move(step)
        assignment = self.answer.bool().movedim(-1, 0).contiguous()
        return Found(assignment, self.value.isfinite(), torch.stack(history))

    def _archive(self, cost: Tensor, violation: Tensor, feasible: Tensor) -> None:
        """Keep the best feasible assignment by cost alone, or as long as there is none the least violation."""
        value, place = torch.where(feasible, cost, math.inf).min(1)
        better = value < self.value
        if bool(better.any()):
            self.value = torch.minimum(value, self.value)
            self._keep(self.leader, self.z, place, better)
            self._keep(self.answer, self.x, place, better)
        if self.lacking:
            without = self.value.isinf()
            self.lacking = bool(without.any())
            least, place = violation.min(1)
            closer = without & (least < self.violation)
            self.violation = torch.where(closer, least, self.violation)
            self._keep(self.answer, self.x, place, closer)

    @staticmethod
    def _keep(kept: Tensor, every: Tensor, place: Tensor, where: Tensor) -> None:
        """Copy particle ``place`` (S,) of ``every`` (K, N, S, P) into ``kept`` (K, N, S) where ``where`` (S,) says."""
        rows = where.nonzero()[:, 0]
        kept[:, :, rows] = every[:, :, rows, place[rows]]

    def _move(self, step: int) -> None:
        swarm, z, v, gap = self.swarm, self.z, self.v, self.gap
        first, second = self.random.draw(step + 1, scale=swarm.pull)
        done = step / max(swarm.iterations - 1, 1)
        v.mul_(swarm.inertia[0] + (swarm.inertia[1] - swarm.inertia[0]) * done)
        torch.sub(self.best, z, out=gap)
        v.add_(gap.mul_(first))
        torch.sub(self.leader.unsqueeze(-1), z, out=gap)
        v.add_(gap.mul_(second))
        if swarm.encoding == "sigmoid":
            v.clamp_(-encodings.SIGMOID_BOUND, encodings.SIGMOID_BOUND)
            return
        v.clamp_(-swarm.bound, swarm.bound)
        z.add_(v)
        # Where a position left [0, 1] the velocity turns round, at half its size.
        torch.clamp(z, 0, 1, out=gap)
        v.sub_(z.sub_(gap).ne_(0).mul_(v).mul_(1.5))
        self.z, self.gap = gap, z


def log_barrier(slack: Tensor, violation: Tensor) -> Tensor:
    """(S, P) sum over tasks of the relaxed logarithmic barrier of ``slack`` (K, S, P).

    b(s) = -ln((min(s, 1) + e) / (1 + e)) for s >= 0 and its tangent at 0 below, e = 0.05. The logarithms are taken
    of products over tasks.

    Args:
        violation: (S, P) sum over tasks of how far ``slack`` is below zero.
    """
    factors = slack.clamp(0, 1).add_(EDGE).div_(1 + EDGE)  # exactly 1 for padding
    total = violation * (1 / EDGE)
    for start in range(0, len(factors), _GROUP):
        total.sub_(steady.log_of_normal(folded_product(factors[start : start + _GROUP], 0), terms=6))
    return total


def _ranks(cost: Tensor, usable: Tensor) -> Tensor:
    """(S, K, N) rank of every vehicle for a task, 0 the cheapest, 1 the dearest; unusable ones come last."""
    count = cost.shape[2]
    order = torch.where(usable, cost.nan_to_num(torch.inf), torch.inf).argsort(dim=2, stable=True)
    ranks = torch.empty_like(cost)
    places = torch.arange(count, dtype=cost.dtype, device=cost.device)
    ranks.scatter_(2, order, places.expand_as(ranks).contiguous())
    return ranks / max(count - 1, 1)
