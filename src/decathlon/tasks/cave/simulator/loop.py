"""The simulation: traffic, links, arrivals, decisions and progress, tick by tick, for all scenarios at once."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from decathlon.tasks.cave import streams
from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.planners import Planner
from decathlon.tasks.cave.simulator.channel import PRESETS, Shadowing, blockage_loss, link_rate
from decathlon.tasks.cave.simulator.columns import packed, row_sum, with_ego
from decathlon.tasks.cave.simulator.outcome import DONE, FAILED, RUNNING, WAITING, Outcome, Recording
from decathlon.tasks.cave.simulator.replicas import Replicas, advance, frozen_shares
from decathlon.tasks.cave.simulator.settings import Settings
from decathlon.tasks.cave.simulator.traffic import TrafficModel, contact_time
from decathlon.tasks.cave.simulator.world import arrivals, lenders, lifetimes

_LATE = 1e-9


class Simulator:
    """Runs a planner in a world.

    Args:
        settings: numbers and switches. traffic: where vehicles are. planner: the method.
        seed: of arrivals, lenders, links and failures.
    """

    def __init__(self, settings: Settings, traffic: TrafficModel, planner: Planner, seed: int = 0) -> None:
        if planner.allocation == "srpt" and settings.sharing != "work_conserving":
            raise ValueError(f"allocation=srpt needs sharing=work_conserving, not sharing={settings.sharing}")
        self.settings, self.traffic, self.planner, self.seed = settings, traffic, planner, seed

    def run(
        self, scenarios: Tensor, record: int | None = None, progress: Callable[[float], None] | None = None
    ) -> tuple[Outcome, Recording | None]:
        """Simulate the scenarios with these ids (S,).

        Args:
            record: the place of one that is recorded.
            progress: told after every tick which share of them is done.
        """
        episode = _Episode(self, scenarios, record)
        for tick in range(self.settings.ticks):
            episode.tick(tick)
            if progress is not None:
                progress((tick + 1) / self.settings.ticks)
        return episode.outcome(), episode.recording


class _Episode:
    """The state of a running simulation."""

    def __init__(self, simulator: Simulator, scenarios: Tensor, record: int | None) -> None:
        self.simulator, self.scenarios = simulator, scenarios
        settings = self.settings = simulator.settings
        seed, device = simulator.seed, scenarios.device
        self.size = len(scenarios)
        self.traffic = simulator.traffic.begin(scenarios, settings.dt, settings.horizon)
        self.tasks = arrivals(settings, scenarios, seed)
        self.lenders = lenders(settings, scenarios, self.traffic.ids, seed)
        self.failures = streams.key(scenarios, seed, "failures")
        self.radio, self.reach = PRESETS[settings.radio], settings.reach
        links = streams.key(scenarios, seed, "links")
        self.blockage = streams.key(scenarios, seed, "blockage")
        self.shadowing = Shadowing(links, self.lenders.id, settings.shadowing, settings.decay)
        shape = self.tasks.arrival.shape
        self.status = torch.full(shape, WAITING, device=device)
        self.finish = torch.full(shape, math.inf, dtype=torch.float64, device=device)
        self.replicas = torch.zeros(shape, dtype=torch.int64, device=device)
        self.planned = torch.full(shape, math.nan, dtype=torch.float64, device=device)
        self.hopeless = torch.zeros(shape, dtype=torch.bool, device=device)
        self.attempts = torch.zeros(shape, dtype=torch.int64, device=device)
        zeros = torch.zeros(self.size, dtype=torch.float64, device=device)
        self.spent, self.wasted, self.offered, self.used, self.objective = (zeros.clone() for _ in range(5))
        self.decisions = torch.zeros(self.size, dtype=torch.int64, device=device)
        self.inside = torch.zeros(self.size, settings.ticks, dtype=torch.int64, device=device)
        self.table = Replicas.none(device)
        self.active = torch.zeros(self.status.numel(), dtype=torch.int64, device=device)  # replicas of each task
        self.ended = torch.zeros(self.size, dtype=torch.int64, device=device)
        times = settings.dt * torch.arange(settings.ticks, dtype=torch.float64, device=device) + _LATE
        times = times.expand(self.size, -1).contiguous()
        self.arrived = torch.searchsorted(self.tasks.arrival.contiguous(), times, right=True)  # (S, ticks)
        self.seconds = 0.0
        self.recorded = record
        self.recording = None
        if record is not None:
            come = self.tasks.arrival[record]
            self.recording = Recording(int(scenarios[record]), self.reach, arrivals=come[come.isfinite()].tolist())

    def tick(self, tick: int) -> None:
        """From time ``tick dt`` to the next tick."""
        settings = self.settings
        now = tick * settings.dt
        self._look(now, tick)
        self._lose_sight(now)
        if self._decides(tick):
            self._decide(now, tick)
        self._count(now, tick)
        self._progress(now)
        self.traffic.advance()

    def _decides(self, tick: int) -> bool:
        return tick % self.settings.ticks_per_epoch == 0

    def _look(self, now: float, tick: int) -> None:
        """Where the lenders are, and how good their links."""
        column, there = self.lenders.column, self.lenders.there
        self.dx, self.dy, self.dvx, self.dvy, speed = self.traffic.relative(column)
        distance = self.distance = torch.sqrt(self.dx * self.dx + self.dy * self.dy)
        self.in_range = there & (distance <= self.reach)
        loss = self.shadowing.advance(speed * self.settings.dt, tick)
        if self.settings.blockage:
            loss = loss + blockage_loss(self.blockage, self.lenders.id, distance, int(now + _LATE))
        if self._decides(tick):
            used = self.in_range.nonzero(as_tuple=True)
        else:  # nobody asks for the others' rates
            others = self.table.vehicle > 0
            used = (self.table.scenario[others], self.table.vehicle[others] - 1)
        rate = torch.zeros_like(distance)
        rate[used] = torch.where(self.in_range[used], link_rate(self.radio, distance[used], loss[used]), 0.0)
        self.rate = with_ego(rate, math.inf)

    def _lose_sight(self, now: float) -> None:
        """Replicas whose vehicle has left the range are lost."""
        table = self.table
        if not len(table):
            return
        gone = ~with_ego(self.in_range, True)[table.scenario, table.vehicle]
        if bool(gone.any()):
            self._remove(gone, torch.full_like(table.death, now), "out of range")

    def _decide(self, now: float, tick: int) -> None:
        """Plan the tasks that wait, and divide every vehicle's compute anew."""
        settings = self.settings
        scenario, task = self._waiting(tick)
        if len(scenario):
            busy, row = torch.unique_consecutive(scenario, return_inverse=True)
            count = torch.bincount(row)
            place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
            queue = torch.full((len(busy), int(count.max())), -1, device=row.device)
            queue[row, place] = task
            candidates, vehicles = self._candidates(busy)
            epoch = self._epoch(busy, queue, candidates, vehicles)
            start = time.perf_counter()
            plan = self.simulator.planner.assign(epoch, self.scenarios[busy], tick)
            self.seconds += time.perf_counter() - start
            self.objective[busy] += plan.objective
            self.decisions[busy] += 1
            self._start(now, busy, queue, candidates, plan.assignment)
            at = (busy[row], task)
            self.planned[at] = plan.reliability[row, place]
            self.hopeless[at] = plan.infeasible[row, place]
            self.replicas[at] += plan.assignment.sum(2)[row, place]
            assigned = plan.assignment.any(2)[row, place]
            self.status[at] = torch.where(assigned, RUNNING, FAILED)
            self.ended.index_add_(0, at[0], (~assigned).long())
        if len(self.table):
            self.table.share = frozen_shares(
                self.table, self.simulator.planner.allocation, settings.sharing, self.rate.shape[1], self.size
            )

    def _waiting(self, tick: int) -> tuple[Tensor, Tensor]:
        """Scenario and number of the tasks that have arrived and wait, in this order."""
        arrived = self.arrived[:, tick]
        first = 0
        if self.settings.retry == 0 and tick >= self.settings.ticks_per_epoch and self.size:
            first = int(self.arrived[:, tick - self.settings.ticks_per_epoch].min())  # earlier ones are decided
        last = int(arrived.max()) if self.size else 0
        number = torch.arange(first, last, device=arrived.device)
        waiting = (number < arrived[:, None]) & (self.status[:, first:last] == WAITING)
        scenario, task = waiting.nonzero(as_tuple=True)
        return scenario, task + first

    def _candidates(self, busy: Tensor) -> tuple[Tensor, Tensor]:
        """(s, N) columns of the lenders in range that stay longest, the ego first; and which of them are there."""
        settings = self.settings
        near, here = packed(self.in_range[busy])
        dx, dy, dvx, dvy = (part[busy].gather(1, near) for part in (self.dx, self.dy, self.dvx, self.dvy))
        contact = torch.where(here, contact_time(dx, dy, dvx, dvy, self.reach, settings.longest), -1.0)
        self.contact = torch.zeros_like(self.dx[busy]).scatter_reduce_(1, near, contact, "amax")
        room = settings.candidates - settings.local
        # Always as many slots as there may be: a decision must not depend on who else is in the batch.
        place = contact.argsort(dim=1, descending=True, stable=True)[:, :room]
        best, there = near.gather(1, place), here.gather(1, place)
        if best.shape[1] < room:
            missing = room - best.shape[1]
            best = torch.nn.functional.pad(best, (0, missing))
            there = torch.nn.functional.pad(there, (0, missing))
        column = (best + 1).clamp(max=self.in_range.shape[1])  # without any lender, padding points at the ego
        if settings.local:
            column, there = with_ego(column, 0), with_ego(there, True)
        return column, there

    def _epoch(self, busy: Tensor, queue: Tensor, candidates: Tensor, there: Tensor) -> Epoch:
        settings, tasks = self.settings, self.tasks
        here = queue >= 0
        number = queue.clamp(min=0)
        rows = busy[:, None]
        load = torch.zeros(self.size * self.rate.shape[1], dtype=torch.float64, device=rows.device)
        where = self.table.scenario * self.rate.shape[1] + self.table.vehicle
        load = load.index_add_(0, where, torch.sqrt(self.table.cycles)).view(self.size, -1)
        contact = with_ego(self.contact, 0.0).gather(1, candidates)
        distance = with_ego(self.distance[busy], 0.0).gather(1, candidates)
        return Epoch(
            work=tasks.work[rows, number], weight=1.0, upload=tasks.upload[rows, number],
            result=tasks.result[rows, number], target=settings.target,
            speed=self.lenders.speed[rows, candidates], rate=self.rate[rows, candidates],
            hazard=self.lenders.hazard[rows, candidates], contact=contact.clamp(min=0),
            load=load[rows, candidates], tasks=here, vehicles=there, local=settings.local,
            local_reliability=settings.local_reliability, inflation=settings.inflation, distance=distance,
        )  # fmt: skip

    def _start(self, now: float, busy: Tensor, queue: Tensor, candidates: Tensor, assignment: Tensor) -> None:
        row, k, n = assignment.nonzero(as_tuple=True)
        if not len(row):
            return
        scenario, task, vehicle = busy[row], queue[row, k], candidates[row, n]
        ego = vehicle == 0
        identity = torch.where(ego, -1, 0)
        if self.lenders.id.shape[1]:
            identity = torch.where(ego, -1, self.lenders.id[scenario, (vehicle - 1).clamp(min=0)])
        at = (scenario, task)
        life = lifetimes(
            self.failures[scenario], task, identity, self.attempts[at], self.lenders.hazard[scenario, vehicle]
        )
        work = self.tasks.work[at]
        never = torch.full_like(work, math.inf)
        upload = torch.where(ego, 0.0, self.tasks.upload[at])
        fresh = Replicas(
            scenario, task, vehicle, upload, work.clone(), torch.where(ego, 0.0, self.tasks.result[at]), work,
            torch.zeros_like(work), now + life, torch.full_like(work, now),
            torch.where(upload > 0, never, now), never,
        )  # fmt: skip
        self.table = self.table.joined(fresh)
        self.active.index_add_(0, scenario * self.status.shape[1] + task, torch.ones_like(task))

    def _count(self, now: float, tick: int) -> None:
        """Tasks in the system, and compute on offer."""
        self.inside[:, tick] = self.arrived[:, tick] - self.ended
        if self._counted(now):
            lent = torch.where(self.in_range, self.lenders.speed[:, 1:], 0.0)
            own = self.lenders.speed[:, 0] * self.settings.local
            self.offered += (own + row_sum(lent)) * self.settings.dt
        if self.recording is not None:
            self._film(now)

    def _counted(self, now: float) -> bool:
        return self.settings.warmup - _LATE <= now < self.settings.warmup + self.settings.counted - _LATE

    def _progress(self, now: float) -> None:
        table, settings = self.table, self.settings
        if not len(table):
            return
        rate = self.rate[table.scenario, table.vehicle]
        if settings.channel == "shared":
            on_air = (table.vehicle > 0) & ((table.upload > 0) | (table.cycles <= 0))
            links = torch.zeros(self.size, dtype=torch.int64, device=rate.device)
            links.index_add_(0, table.scenario, on_air.long())
            rate = rate / links[table.scenario].clamp(min=1)
        allocation = self.simulator.planner.allocation
        progress = advance(table, now, settings.dt, rate, self.lenders.speed, settings.sharing, allocation == "srpt")
        if self._counted(now):
            self.used += row_sum(progress.computed)
        done = progress.finish.isfinite()
        if not bool((done | progress.lost).any()):
            return
        at = (table.scenario[done], table.task[done])
        flat = at[0] * self.status.shape[1] + at[1]
        self.finish.view(-1).scatter_reduce_(0, flat, progress.finish[done], "amin")
        fresh = (self.status[at] == RUNNING).nonzero()[:, 0]
        fresh = flat[fresh].unique()
        self.status.view(-1)[fresh] = DONE
        self.ended.index_add_(0, fresh // self.status.shape[1], torch.ones_like(fresh))
        over = self.status[table.scenario, table.task] == DONE
        end = torch.where(done, progress.finish, now + settings.dt)
        end = torch.where(progress.lost, table.death, end)
        winner = done & (progress.finish == self.finish[table.scenario, table.task])
        gone = progress.lost | done | (over if settings.cancel else torch.zeros_like(over))
        fate = torch.where(winner, 0, torch.where(progress.lost, 2, 1))
        self._remove(gone, end, fate)

    def _remove(self, gone: Tensor, end: Tensor, fate: "Tensor | str") -> None:
        """Take rows out of the table; ``fate`` 0 returned first, 1 cancelled or late, 2 lost."""
        rows = self.table.select(gone)
        spent = rows.work - rows.cycles
        self.spent.index_add_(0, rows.scenario, spent)
        wasted = spent if isinstance(fate, str) else torch.where(fate[gone] == 0, 0.0, spent)
        self.wasted.index_add_(0, rows.scenario, wasted)
        if self.recording is not None:
            mine = rows.scenario.eq(self.recorded if self.recorded is not None else -1)
            self.recording.log(rows.select(mine), end[gone][mine], fate if isinstance(fate, str) else fate[gone][mine])
        self.table = self.table.select(~gone)
        flat = rows.scenario * self.status.shape[1] + rows.task
        self.active.index_add_(0, flat, -torch.ones_like(flat))
        self._settle(flat)

    def _settle(self, flat: Tensor) -> None:
        """Tasks (by number) that ran and have no replica left have failed, or wait for their next attempt."""
        status, attempts = self.status.view(-1), self.attempts.view(-1)
        flat = flat.unique()
        orphans = flat[(status[flat] == RUNNING) & (self.active[flat] == 0)]
        again = attempts[orphans] < self.settings.retry
        status[orphans] = torch.where(again, WAITING, FAILED)
        attempts[orphans] += again.long()
        self.ended.index_add_(0, orphans // self.status.shape[1], (~again).long())

    def _film(self, now: float) -> None:
        assert self.recording is not None and self.recorded is not None
        s, table = self.recorded, self.table
        shown = 1.6 * self.reach
        close = self.lenders.there[s] & (self.dx[s].abs() <= shown) & (self.dy[s].abs() <= shown)
        near = close.nonzero()[:, 0]
        mine = table.scenario == s
        waiting = (self.tasks.arrival[s] <= now) & (self.status[s] == WAITING)
        self.recording.frames.append(
            {
                "time": now, "vehicle": (near + 1).tolist(), "x": self.dx[s, near].tolist(),
                "y": self.dy[s, near].tolist(), "speed": self.lenders.speed[s, near + 1].tolist(),
                "in_range": self.in_range[s, near].tolist(), "running": table.vehicle[mine].tolist(),
                "sending": (table.upload[mine] > 0).tolist(), "waiting": int(waiting.sum()),
            }
        )  # fmt: skip

    def outcome(self) -> Outcome:
        """The tasks' fates at the end of the horizon."""
        rest = self.table
        self.spent.index_add_(0, rest.scenario, rest.work - rest.cycles)
        return Outcome(
            self.tasks.arrival, self.finish, self.status, self.replicas, self.planned, self.hopeless, self.spent,
            self.wasted, self.offered, self.used, self.inside, self.objective, self.decisions, self.seconds,
        )  # fmt: skip
