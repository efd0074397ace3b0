"""Vehicles on a ring road: car following by the intelligent driver model, or constant speeds."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from decathlon.tasks.cave import steady, streams


class Traffic(Protocol):
    """Vehicles of S scenarios as seen from their ego vehicles, which are none of the M others.

    Attributes:
        ids: (S, M) number of every vehicle, which names its random streams.
    """

    ids: Tensor

    def relative(self, columns: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """dx, dy, dvx, dvy (S, M) relative to the ego, m and m/s, and the speed (S, M); NaN-free.

        Vehicles that are not there are very far away. ``columns`` (S, m) picks some of ``ids``; None: all.
        """
        ...

    def advance(self) -> None:
        """Move on by one tick."""
        ...


class TrafficModel(Protocol):
    """Makes the traffic of a batch of scenarios."""

    def begin(self, scenarios: Tensor, dt: float, horizon: float) -> Traffic:
        """The traffic of the scenarios with these ids, for ``horizon`` seconds."""
        ...


@dataclass(frozen=True)
class Ring:
    """A ring of two directions with ``lanes`` lanes each; the ego drives in the middle lane of the first.

    Attributes:
        seed: of the draws. length: km. density: vehicles per km and lane.
        follow: car following by the intelligent driver model; False: everyone keeps the desired speed for ever.
        mean, spread: of the desired speed, m/s, normal and cut off at ``slowest`` and ``fastest``.
        headway: s. acceleration, braking: m/s^2. standstill: m, gap at rest. vehicle: m, length of a vehicle.
        warmup: s of driving before the simulation starts, from equal spacing with 10 % jitter.
    """

    seed: int = 0
    length: float = 4.0
    lanes: int = 3
    density: float = 10.0
    follow: bool = True
    mean: float = 30.0
    spread: float = 3.0
    slowest: float = 20.0
    fastest: float = 38.0
    headway: float = 1.5
    acceleration: float = 1.5
    braking: float = 2.0
    standstill: float = 2.0
    vehicle: float = 4.5
    warmup: float = 60.0
    lane_width: float = 4.0
    median: float = 8.0

    def __post_init__(self) -> None:
        for name in ("length", "density", "mean", "headway", "acceleration", "braking", "slowest"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.lanes < 1 or self.spread < 0 or self.warmup < 0:
            raise ValueError("lanes must be at least 1, spread and warmup not negative")
        if self.fastest < self.slowest:
            raise ValueError(f"fastest={self.fastest} is below slowest={self.slowest}")
        if self.per_lane < 1:
            raise ValueError(f"density={self.density} puts no vehicle on a lane of {self.length} km")
        if self.follow and 1000 * self.length / self.per_lane <= self.vehicle + self.standstill:
            raise ValueError(f"density={self.density}: vehicles of {self.vehicle} m do not fit on the road")

    @property
    def per_lane(self) -> int:
        """Vehicles in every lane."""
        return round(self.length * self.density)

    def begin(self, scenarios: Tensor, dt: float, horizon: float) -> "RingTraffic":
        """See :class:`TrafficModel`."""
        traffic = RingTraffic(self, scenarios, dt)
        for _ in range(round(self.warmup / dt) if self.follow else 0):
            traffic.advance()
        return traffic


class RingTraffic:
    """Positions along the driving direction and speeds, (S, 2 lanes, vehicles of a lane); order never changes."""

    def __init__(self, ring: Ring, scenarios: Tensor, dt: float) -> None:
        self.ring, self.dt = ring, dt
        count, lanes = ring.per_lane, 2 * ring.lanes
        device = scenarios.device
        self.metres = 1000 * ring.length
        place = torch.arange(count, device=device)
        lane = torch.arange(lanes, device=device)[:, None]
        keys = streams.key(scenarios, ring.seed, "traffic")[:, None, None]
        spacing = self.metres / count
        jitter = 0.1 * (streams.uniform(keys, lane, place, 0) - 0.5)
        self.place = (place + jitter) * spacing
        low, high = (
            float(steady.normal_cdf(torch.tensor((edge - ring.mean) / max(ring.spread, 1e-9))))
            for edge in (ring.slowest, ring.fastest)
        )
        quantile = steady.normal_quantile(low + (high - low) * streams.uniform(keys, lane, place, 1))
        self.desired = (ring.mean + ring.spread * quantile).clamp(ring.slowest, ring.fastest)
        self.speed = self.desired.clone()
        if ring.follow:
            free = (spacing - ring.vehicle - ring.standstill) / ring.headway
            self.speed.clamp_(max=max(free, 0.0))
        offset = torch.arange(ring.lanes, device=device, dtype=torch.float64) * ring.lane_width
        across = torch.cat([offset, -ring.median - offset])[:, None].expand(lanes, count).flatten()
        self.ego = (ring.lanes // 2) * count
        self._offsets = across - across[self.ego]
        self._signs = torch.where(lane < ring.lanes, 1.0, -1.0).double().expand(lanes, count).flatten()
        others = torch.arange(lanes * count, device=device)
        self._others = others[others != self.ego]
        self.ids = self._others.expand(len(scenarios), -1)
        self._asked: Tensor | None = self.ids  # for which columns the next line is
        self._picked = self.ids, self._signs[self.ids], self._offsets[self.ids]

    def advance(self) -> None:
        """One tick: speeds first, then positions (semi-implicit Euler)."""
        ring, v = self.ring, self.speed
        if ring.follow:
            ahead, before = self.place.roll(-1, 2), v.roll(-1, 2)
            gap = ahead - self.place
            gap = torch.where(gap <= 0, gap + self.metres, gap).sub_(ring.vehicle).clamp_(min=0.1)
            closing = v * (v - before) / (2 * (ring.acceleration * ring.braking) ** 0.5)
            wanted = ring.standstill + (v * ring.headway + closing).clamp(min=0)
            ratio, room = v / self.desired, wanted / gap
            square = ratio * ratio
            change = ring.acceleration * (1 - square * square - room * room)
            self.speed = (v + change * self.dt).clamp(min=0)
        self.place = self.place + self.speed * self.dt
        self.place = torch.where(self.place >= self.metres, self.place - self.metres, self.place)

    def relative(self, columns: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """See :class:`Traffic`. Positions wrap around the ring."""
        if columns is not self._asked:
            self._asked, pick = columns, self.ids if columns is None else self._others[columns]
            self._picked = pick, self._signs[pick], self._offsets[pick]
        pick, sign, dy = self._picked
        place, speeds, ego = self.place.flatten(1), self.speed.flatten(1), self.ego
        speed = speeds.gather(1, pick)
        dx = sign * place.gather(1, pick) - place[:, ego : ego + 1]  # the ego drives in the positive direction
        dx = dx - self.metres * torch.round(dx / self.metres)
        dv = sign * speed - speeds[:, ego : ego + 1]
        return dx, dy, dv, torch.zeros_like(dx), speed


def contact_time(dx: Tensor, dy: Tensor, dvx: Tensor, dvy: Tensor, reach: float, longest: float = 60.0) -> Tensor:
    """Seconds until a vehicle at constant relative velocity leaves the circle of radius ``reach``, at most ``longest``.

    0 outside of the circle; ``longest`` without relative motion.
    """
    square = dvx * dvx + dvy * dvy
    along = dx * dvx + dy * dvy
    inside = reach * reach - dx * dx - dy * dy
    root = torch.sqrt((along * along + square * inside).clamp(min=0))
    moving = square > 1e-18
    seconds = torch.where(moving, (root - along) / torch.where(moving, square, 1.0), longest)
    return torch.where(inside >= 0, seconds.clamp(0, longest), 0.0)
