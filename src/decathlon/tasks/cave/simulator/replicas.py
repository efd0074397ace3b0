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
    # Of the many vehicles those that have work.
    vehicles, where = torch.unique(table.scenario * speed.shape[1] + table.vehicle, return_inverse=True)
    capacity = speed.flatten()[vehicles]
    left = torch.full_like(capacity, dt)
    finish = torch.full_like(table.upload, math.inf)
    lost = torch.zeros_like(table.upload, dtype=torch.bool)
    before = table.cycles.clone()
    rows = torch.arange(len(table), device=where.device)
    # Each round brings every vehicle to its next event; few have a second one in a tick.
    while len(rows):
        clock = now + (dt - left)
        alive = _until_next_event(
            table, rows, where[rows], clock, left, rate, capacity, sharing, shortest, finish, lost
        )
        rows = rows[alive & (left[where[rows]] > 0)]
    spent = torch.zeros_like(capacity).index_add_(0, where, before - table.cycles)
    computed = torch.zeros_like(speed)
    computed.view(-1)[vehicles] = spent
    return Progress(finish, lost, computed)


def _until_next_event(
    table: Replicas, rows: Tensor, where: Tensor, clock: Tensor, left: Tensor, rate: Tensor, capacity: Tensor,
    sharing: str, shortest: bool, finish: Tensor, lost: Tensor,
) -> Tensor:  # fmt: skip
    """Move the replicas ``rows``, all that are alive on their vehicles, until the first event of each vehicle.

    Changes ``table``, ``left`` (seconds left of the tick, per vehicle), ``finish`` and ``lost``.

    Returns:
        Which of ``rows`` are still alive.
    """
    upload, cycles, result = table.upload[rows], table.cycles[rows], table.result[rows]
    clock = clock[where]
    sending = upload > 0
    computing = ~sending & (cycles > 0)
    if shortest:
        least = torch.full_like(capacity, math.inf)
        least.scatter_reduce_(0, where, torch.where(computing, cycles, math.inf), "amin")
        weight = (computing & (cycles == least[where])).double()
    else:
        weight = table.share[rows] * computing
    if sharing == "fixed":
        portion = weight
    else:
        holding = table.share[rows] * (cycles > 0) if sharing == "reserved" else weight
        total = torch.zeros_like(capacity).index_add_(0, where, holding)[where]
        portion = weight / torch.where(total > 0, total, 1.0)
    amount = torch.where(sending, upload, torch.where(computing, cycles, result))
    flow = torch.where(computing, capacity[where] * portion, rate[rows])
    until = torch.where(amount > 0, amount / flow, 0.0)  # infinite where nothing flows
    dies = (table.death[rows] - clock).clamp(min=0)
    step = left.scatter_reduce(0, where, torch.minimum(until, dies), "amin")
    mine = step[where]
    dead = (dies <= mine) & (dies < until)
    ended = ~dead & (until <= mine)
    moved = torch.where(ended, amount, torch.minimum(flow * mine, amount))
    table.upload[rows] = upload - moved * sending
    table.cycles[rows] = cycles - moved * computing
    idle = ~(sending | computing)
    table.result[rows] = result - moved * idle
    instant = clock + mine
    for column, phase in ((table.sent, sending), (table.computed, computing), (finish, idle)):
        over = ended & phase
        column[rows[over]] = instant[over]
    lost[rows[dead]] = True
    left.sub_(step)  # nothing is left of the tick where no replica was moved: that vehicle has none
    return ~(dead | (ended & idle))


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
