"""The active replicas of all scenarios in one flat table, and their progress within a tick."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

UPLOAD, COMPUTE, RETURN = 0, 1, 2


@dataclass
class Replicas:
    """One row per active replica; all columns have shape (R,).

    Attributes:
        scenario, task, vehicle: where it belongs; vehicle is a column of the scenario's lenders, 0 the ego.
        upload, cycles, result: Mbit, Gcycle and Mbit that are left.
        work: Gcycle at its start.
        share: its weight in the division of its vehicle's compute; a fixed share where ``sharing=fixed``.
        death: s, when its vehicle fails.
        began, sent, computed: s, when it was assigned, when its upload and when its computation ended (inf: not yet).
    """

    scenario: Tensor
    task: Tensor
    vehicle: Tensor
    upload: Tensor
    cycles: Tensor
    result: Tensor
    work: Tensor
    share: Tensor
    death: Tensor
    began: Tensor
    sent: Tensor
    computed: Tensor

    @classmethod
    def none(cls, device: torch.device) -> "Replicas":
        """An empty table."""
        whole = torch.zeros(0, dtype=torch.int64, device=device)
        number = torch.zeros(0, dtype=torch.float64, device=device)
        return cls(**{f.name: whole if f.name in ("scenario", "task", "vehicle") else number for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.scenario)

    def select(self, rows: Tensor) -> "Replicas":
        """Some rows, by a mask or by numbers."""
        return Replicas(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def joined(self, other: "Replicas") -> "Replicas":
        """These rows, then those of ``other``."""
        return Replicas(**{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})


@dataclass
class Progress:
    """What a tick did to a table of R replicas.

    Attributes:
        finish: (R,) s, when the result was back; infinite if it is not.
        lost: (R,) bool, its vehicle failed before.
        computed: (S, V) Gcycle that each vehicle computed.
    """

    finish: Tensor
    lost: Tensor
    computed: Tensor


def advance(
    table: Replicas, now: float, dt: float, rate: Tensor, speed: Tensor, sharing: str, shortest: bool
) -> Progress:
    """Move every replica through upload, compute and return for one tick; changes ``table``.

    Within the tick a vehicle shares its compute anew whenever one of its replicas changes its phase or dies, so the
    only effect of the tick is that link rates stay constant in it. A replica's vehicle may fail at any instant.

    Args:
        rate: (R,) Mbit/s of each replica's link. speed: (S, V) Gcycle/s.
        sharing: see ``Settings``. shortest: least remaining work first, at full speed, instead of by ``share``.
    """
    vehicles = speed.shape[1]
    where = table.scenario * vehicles + table.vehicle
    capacity = speed.flatten()
    slots = len(capacity)
    left = torch.full_like(capacity, dt)
    finish = torch.full_like(table.upload, math.inf)
    lost = torch.zeros_like(table.upload, dtype=torch.bool)
    before = table.cycles.clone()
    alive = torch.ones_like(lost)
    while True:
        clock = now + (dt - left)[where]
        sending = (table.upload > 0) & alive
        computing = ~sending & (table.cycles > 0) & alive
        if shortest:
            least = torch.full_like(capacity, math.inf)
            least.scatter_reduce_(0, where, torch.where(computing, table.cycles, math.inf), "amin")
            weight = (computing & (table.cycles == least[where])).double()
        else:
            weight = torch.where(computing, table.share, 0.0)
        if sharing == "fixed":
            portion = weight
        else:
            holding = weight if sharing == "work_conserving" or shortest else table.share * ((table.cycles > 0) & alive)
            total = torch.zeros_like(capacity).index_add_(0, where, holding)[where]
            portion = weight / torch.where(total > 0, total, 1.0)
        pace = capacity[where] * portion
        amount = torch.where(sending, table.upload, torch.where(computing, table.cycles, table.result))
        flow = torch.where(computing, pace, rate)
        until = torch.where(flow > 0, amount / flow, math.inf)
        until = torch.where(amount > 0, until, 0.0)
        dies = table.death - clock
        event = torch.where(alive, torch.minimum(until, dies.clamp(min=0)), math.inf)
        step = left.scatter_reduce(0, where, event, "amin")
        mine = step[where]
        dead = alive & (dies <= mine) & (dies < until)
        ended = alive & ~dead & (until <= mine)
        moved = torch.where(ended, amount, (flow * mine).minimum(amount)) * alive
        table.upload -= torch.where(sending, moved, 0.0)
        table.cycles -= torch.where(computing, moved, 0.0)
        table.result -= torch.where(sending | computing, 0.0, moved)
        instant = clock + mine
        table.sent = torch.where(ended & sending, instant, table.sent)
        table.computed = torch.where(ended & computing, instant, table.computed)
        returned = ended & ~sending & ~computing
        finish = torch.where(returned, instant, finish)
        lost |= dead
        alive &= ~(dead | returned)
        left = left - step
        if not bool((alive & (left[where] > 0)).any()):
            break
    spent = torch.zeros(slots, dtype=torch.float64, device=capacity.device).index_add_(0, where, before - table.cycles)
    return Progress(finish, lost, spent.view_as(speed))


def frozen_shares(table: Replicas, allocation: str, sharing: str, vehicles: int, scenarios: int) -> Tensor:
    """(R,) weights in the division of compute, from the work that is left at a decision.

    ``sqrt`` of the remaining work (the closed form), ``equal``, or ``proportional``; ``srpt`` uses none.
    """
    active = (table.cycles > 0).double()
    if allocation == "sqrt":
        weight = torch.sqrt(table.cycles)
    elif allocation == "proportional":
        weight = table.cycles
    else:
        weight = active
    if sharing == "fixed":
        where = table.scenario * vehicles + table.vehicle
        total = torch.zeros(scenarios * vehicles, dtype=torch.float64, device=weight.device)
        total = total.index_add_(0, where, weight)[where]
        weight = weight / torch.where(total > 0, total, 1.0)
    return weight
