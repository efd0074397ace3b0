"""Speed and quality of CAVE's planner and simulator against named peers, as ratios within one run on one thread.

1. The planner at S = 64 scenarios, K = 8 tasks, N = 12 vehicles, P = 40 particles, I = 60 iterations, against pyswarms'
   GlobalBestPSO and BinaryPSO with a vectorised objective, and a NumPy swarm that loops over its particles. The peers
   plan one scenario after the other; ``--quick`` gives them fewer and scales up.
2. Quality at equal evaluations (P = 40, I = 200): J over the optimum, pyswarms' BinaryPSO beside it.
3. Time to a gap of 3 % against the MILP at K = 6, N = 12.
4. The simulator at S = 1024 against a simpy program of the same model (vehicles at constant speeds, links, range
   checks at ticks, decisions, processor-sharing servers) in the same world; mean latencies side by side.
5. Cost per scenario at S = 4096 over that at S = 8, of planner and simulator.

Times are CPU seconds of this process, which other programs disturb less than the clock. ``pip install pyswarms simpy``.

``python scripts/bench/cave.py [--quick]``
"""

import argparse
import importlib.util
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from decathlon.tasks.cave import Cave, Cover, Epoch, Greedy, optimum
from decathlon.tasks.cave.instances import random_epoch
from decathlon.tasks.cave.simulator.channel import Radio
from decathlon.tasks.cave.simulator.loop import Simulator
from decathlon.tasks.cave.simulator.outcome import DONE
from decathlon.tasks.cave.simulator.settings import Settings
from decathlon.tasks.cave.simulator.traffic import Ring
from decathlon.tasks.cave.simulator.world import arrivals, lenders

TASKS, VEHICLES, PARTICLES, ITERATIONS = 8, 12, 40, 60
EDGE = 0.05


def clock(call: Callable[[], Any], rounds: int = 3) -> float:
    """Least CPU seconds of some calls, after one that warms up."""
    call()
    best = math.inf
    for _ in range(rounds):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def line(name: str, value: str, wanted: str = "", good: bool = True) -> None:
    """One row of the report; without ``wanted`` there is no target."""
    verdict = f"   wanted {wanted:<9} {'met' if good else 'MISSED'}" if wanted else ""
    print(f"{name:<74} {value:>10}{verdict}", flush=True)


class Penalised:
    """One scenario's J plus a logarithmic barrier, for peers: positions (P, K N) to costs (P,), in NumPy."""

    def __init__(self, epoch: Epoch, scenario: int) -> None:
        self.root, self.load = epoch.root[scenario].numpy(), epoch.load[scenario].numpy()
        self.speed, self.share = epoch.speed[scenario].numpy(), epoch.share[scenario].numpy()
        self.cost = epoch.communication[scenario].numpy()
        self.scale = float(epoch.alone[scenario].sum()) / len(self.root)
        self.best = math.inf

    def cover_and_cost(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P, K) covers and (P,) J of assignments (P, K, N)."""
        added = np.einsum("k,pkn->pn", self.root, x)
        cost = (added * (added + 2 * self.load) / self.speed).sum(1) + (x * self.cost).sum((1, 2))
        return (x * self.share).sum(2), cost

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Costs with the barrier; remembers the best feasible J."""
        x = (positions.reshape(len(positions), *self.cost.shape) > 0.5).astype(float)
        cover, cost = self.cover_and_cost(x)
        feasible = (cover >= 1 - 1e-9).all(1)
        if feasible.any():
            self.best = min(self.best, float(cost[feasible].min()))
        slack = cover - 1
        inside = -np.log((np.clip(slack, 0, 1) + EDGE) / (1 + EDGE))
        outside = np.maximum(-slack, 0) / EDGE
        return cost + self.scale * (inside + outside).sum(1)


def pyswarms_plan(kind: str, epoch: Epoch, scenario: int, iterations: int) -> float:
    """Best feasible J that a swarm of pyswarms finds for one scenario."""
    import pyswarms

    problem = Penalised(epoch, scenario)
    np.random.seed(scenario)
    size = dict(n_particles=PARTICLES, dimensions=epoch.count * epoch.slots)
    options = {"c1": 1.5, "c2": 1.5, "w": 0.7}
    if kind == "binary":
        swarm = pyswarms.discrete.BinaryPSO(**size, options={**options, "k": PARTICLES, "p": 2}, velocity_clamp=(-4, 4))
    else:
        ones = np.ones(size["dimensions"])
        swarm = pyswarms.single.GlobalBestPSO(**size, options=options, bounds=(0 * ones, ones))
    swarm.optimize(problem, iters=iterations, verbose=False)
    return problem.best


def numpy_plan(epoch: Epoch, scenario: int, iterations: int) -> float:
    """The same swarm in NumPy, particle by particle."""
    problem, random = Penalised(epoch, scenario), np.random.default_rng(scenario)
    size = epoch.count * epoch.slots
    z, v = random.random((PARTICLES, size)), random.uniform(-0.2, 0.2, (PARTICLES, size))
    best, value = z.copy(), np.full(PARTICLES, math.inf)
    for step in range(iterations):
        omega = 0.9 - 0.5 * step / max(iterations - 1, 1)
        for p in range(PARTICLES):
            fit = problem(z[p : p + 1])[0]
            if fit < value[p]:
                value[p], best[p] = fit, z[p]
        leader = best[value.argmin()]
        for p in range(PARTICLES):
            pull = 1.5 * random.random(size) * (best[p] - z[p]) + 1.5 * random.random(size) * (leader - z[p])
            v[p] = np.clip(omega * v[p] + pull, -0.5, 0.5)
            z[p] = z[p] + v[p]
            out = (z[p] < 0) | (z[p] > 1)
            v[p][out] *= -0.5
            z[p] = np.clip(z[p], 0, 1)
    return problem.best


def bench_planner(quick: bool) -> None:
    """Speed at S = 64."""
    epoch = random_epoch(64, TASKS, VEHICLES)
    planners = {name: Cave(encoding=name) for name in ("threshold", "priority")}
    ours = {name: clock(partial(planner.assign, epoch)) for name, planner in planners.items()}
    line("planner, S = 64, threshold encoding, ms per scenario", f"{ours['threshold'] / 64 * 1e3:.2f}")
    line("  priority encoding / threshold encoding", f"{ours['priority'] / ours['threshold']:.2f}")
    share = 4 if quick else 16
    peers: dict[str, Callable[[int], float]] = {"per-particle NumPy loop": lambda s: numpy_plan(epoch, s, ITERATIONS)}
    wanted = {"per-particle NumPy loop": 10.0, "pyswarms GlobalBestPSO": 4.0, "pyswarms BinaryPSO": 6.0}
    if importlib.util.find_spec("pyswarms"):
        peers["pyswarms GlobalBestPSO"] = lambda s: pyswarms_plan("continuous", epoch, s, ITERATIONS)
        peers["pyswarms BinaryPSO"] = lambda s: pyswarms_plan("binary", epoch, s, ITERATIONS)
    else:
        print("pyswarms is not installed: its rows are left out")
    for name, plan in peers.items():
        seconds = clock(partial(lambda plan: [plan(s) for s in range(share)], plan), 1 if quick else 2) * 64 / share
        ratio = seconds / ours["threshold"]
        line(f"  {name} / ours", f"{ratio:.1f}", f">= {wanted[name]:g}", ratio >= wanted[name])


def bench_quality(quick: bool) -> None:
    """J over the optimum at equal evaluations."""
    count, iterations = (5, 200) if quick else (20, 200)
    epoch = random_epoch(count, 4, VEHICLES - 4)
    best = optimum(epoch).objective
    for name in ("priority", "threshold", "sigmoid"):
        ratio = float((Cave(encoding=name, iterations=iterations).assign(epoch).objective / best).mean())
        wanted = "<= 1.03" if name == "priority" else ""
        line(f"J over the optimum, K = 4, N = 8, {name} encoding", f"{ratio:.3f}", wanted, ratio <= 1.03)
    if importlib.util.find_spec("pyswarms"):
        found = torch.tensor([pyswarms_plan("binary", epoch, s, iterations) for s in range(count)]) / best
        there = found.isfinite()
        line("  pyswarms' BinaryPSO, where it finds a feasible assignment", f"{float(found[there].mean()):.3f}")
        line("  share of instances where it does", f"{float(there.double().mean()):.2f}")


def bench_time_to_gap(quick: bool) -> None:
    """CPU time per instance until the mean gap is 3 %, over the MILP's."""
    count = 3 if quick else 8
    few = random_epoch(count, 6, 12)
    start = time.process_time()
    best = optimum(few).objective
    milp = (time.process_time() - start) / count
    many = random_epoch(64, 6, 12)
    for iterations in (20, 30, 40, 60, 100, 150, 200):
        planner = Cave(encoding="priority", polish=True, iterations=iterations)
        gap = float((planner.assign(few).objective / best).mean()) - 1
        if gap <= 0.03:
            break
    seconds = clock(lambda: planner.assign(many), 2) / 64
    line(f"mean gap after {iterations} iterations, priority encoding and polish", f"{gap:.3f}", "<= 0.03", gap <= 0.03)
    line("  MILP / ours, CPU time per instance", f"{milp / seconds:.0f}", ">= 20", milp / seconds >= 20)


class Server:
    """A vehicle in simpy: replicas share its compute equally; shares change when one joins, leaves or ends."""

    def __init__(self, world: Any, speed: float) -> None:
        self.world, self.speed, self.last = world, speed, 0.0
        self.left: dict[Any, float] = {}
        self.wake = world.event()
        world.process(self.serve())

    def settle(self) -> None:
        """Account for what has been computed since the last change."""
        passed, self.last = self.world.now - self.last, self.world.now
        for done in self.left:
            self.left[done] -= passed * self.speed / len(self.left)

    def change(self) -> None:
        """Let the server look at its replicas anew."""
        if not self.wake.triggered:
            self.wake.succeed()

    def serve(self) -> Any:
        """The process: waits for the next end or the next change."""
        while True:
            self.settle()
            for done in [done for done, left in self.left.items() if left <= 1e-9]:
                del self.left[done]
                done.succeed()
            self.wake = self.world.event()
            if self.left:
                pause = min(self.left.values()) * len(self.left) / self.speed
                yield self.world.timeout(max(pause, 0.0)) | self.wake
            else:
                yield self.wake


class SimpyRoad:
    """One scenario in simpy, the same model: constant speeds on a ring, links, range checks, decisions, replicas.

    A decision gives every waiting task to the lender in range that stays longest.
    """

    def __init__(
        self, settings: Settings, road: dict[str, list[float]], length: float, tasks: dict[str, list[float]]
    ) -> None:
        import simpy

        self.settings, self.road, self.length, self.tasks = settings, road, length, tasks
        self.world = simpy.Environment()
        self.servers = [Server(self.world, speed) for speed in road["speed"]]
        self.finish = [math.inf] * len(tasks["arrival"])
        radio = Radio()
        self.budget = radio.power + 2 * radio.gain - radio.noise - 32.4 - 20 * math.log10(radio.frequency)
        self.world.process(self.decide())

    def place(self, n: int, time: float) -> tuple[float, float]:
        """Relative position of lender n, m."""
        dx = self.road["dx"][n] + self.road["dv"][n] * time
        return dx - self.length * round(dx / self.length), self.road["dy"][n]

    def rate(self, n: int) -> float:
        """Mbit/s at the beginning of this tick; 0 out of range."""
        dt = self.settings.dt
        dx, dy = self.place(n, math.floor(self.world.now / dt + 1e-6) * dt)
        square = dx * dx + dy * dy
        if square > self.settings.reach**2:
            return 0.0
        return 10 * min(7.4, 0.75 * math.log2(1 + 10 ** (self.budget / 10) / max(square, 1.0)))

    def rest_of_tick(self) -> float:
        """Seconds until the next tick."""
        dt = self.settings.dt
        return (math.floor(self.world.now / dt + 1e-6) + 1) * dt - self.world.now

    def decide(self) -> Any:
        """Every epoch, tasks that have arrived go to the lender of longest contact."""
        following, count = 0, len(self.tasks["arrival"])
        reach, longest = self.settings.reach, self.settings.longest
        while self.world.now < self.settings.horizon - 1e-9:
            chosen, best = None, -1.0
            for n in range(len(self.servers)):
                dx, dy = self.place(n, self.world.now)
                square = dx * dx + dy * dy
                if square <= reach * reach:
                    dv = self.road["dv"][n]
                    half = math.sqrt(reach * reach - dy * dy)
                    contact = min((half - math.copysign(dx, dx * dv)) / abs(dv), longest) if dv else longest
                    if contact > best + 1e-12:
                        chosen, best = n, contact
            while following < count and self.tasks["arrival"][following] <= self.world.now + 1e-9:
                if chosen is not None:
                    self.world.process(self.replica(following, chosen))
                following += 1
            yield self.world.timeout(self.settings.epoch)

    def transfer(self, n: int, volume: float) -> Any:
        """Send ``volume`` Mbit, looking at the link at every tick; returns whether it arrived."""
        while volume > 1e-12:
            rate = self.rate(n)
            if rate == 0:
                return False
            step = min(volume / rate, self.rest_of_tick())
            yield self.world.timeout(step)
            volume -= rate * step
        return True

    def replica(self, task: int, n: int) -> Any:
        """Upload, compute, return; given up when its vehicle leaves the range."""
        if not (yield from self.transfer(n, self.tasks["upload"][task])):
            return
        server, done = self.servers[n], self.world.event()
        server.settle()
        server.left[done] = self.tasks["work"][task]
        server.change()
        while not done.triggered:
            yield done | self.world.timeout(self.rest_of_tick())
            if not done.triggered and self.rate(n) == 0:
                server.settle()
                server.left.pop(done, None)
                server.change()
                return
        if (yield from self.transfer(n, self.tasks["result"][task])):
            self.finish[task] = self.world.now

    def run(self) -> list[float]:
        """Latencies of all tasks, infinite where none returned."""
        self.world.run(until=self.settings.horizon)
        return [end - start for end, start in zip(self.finish, self.tasks["arrival"])]


def bench_simulator(quick: bool) -> None:
    """S = 1024 against simpy: constant speeds on the ring, one replica per task on the vehicle that stays longest."""
    if not importlib.util.find_spec("simpy"):
        print("simpy is not installed: its rows are left out")
        return
    settings = Settings(
        rate=4.0, hazard=(1e-12, 1e-12), local=False, candidates=12, shadowing=0.0, target=1e-9, speed=(6, 8)
    )
    ring, planner = Ring(follow=False, warmup=0.0), Cover("contact")
    count, some = (64, 8) if quick else (1024, 32)
    ids = torch.arange(count)
    simulator = Simulator(settings, ring, planner, 0)
    ours = clock(lambda: simulator.run(ids), 1) / count
    outcome, _ = simulator.run(ids)
    traffic = ring.begin(ids, settings.dt, settings.horizon)
    tasks, lent = arrivals(settings, ids, 0), lenders(settings, ids, traffic.ids, 0)
    dx, dy, dv, _, _ = (part.gather(1, lent.column) for part in traffic.relative())
    theirs, missing, pairs = 0.0, 0, []
    for s in range(some):
        here, there = tasks.arrival[s].isfinite(), lent.there[s]
        road = {"dx": dx[s], "dy": dy[s], "dv": dv[s], "speed": lent.speed[s, 1:]}
        load = {
            "arrival": tasks.arrival[s],
            "upload": tasks.upload[s],
            "work": tasks.work[s],
            "result": tasks.result[s],
        }
        inputs = (
            {key: column[mask].tolist() for key, column in part.items()} for part, mask in ((road, there), (load, here))
        )
        start = time.process_time()
        latencies = SimpyRoad(settings, next(inputs), 1000 * ring.length, next(inputs)).run()
        theirs += (time.process_time() - start) / some
        found = torch.tensor(latencies, dtype=torch.float64)
        both = found.isfinite() & (outcome.status[s][here] == DONE)
        pairs.append(((outcome.finish[s] - outcome.arrival[s])[here][both], found[both]))
        missing += len(both) - int(both.sum())
    left, right = (torch.cat(list(parts)).mean() for parts in list(zip(*pairs))[:2])
    line(f"our simulator, S = {count}, ms per scenario of 30 s", f"{1e3 * ours:.1f}")
    ratio = theirs / ours
    line("  simpy / ours, CPU time per scenario", f"{ratio:.1f}", ">= 3", ratio >= 3)
    apart = abs(float(left / right) - 1)
    line("  mean latencies differ by", f"{apart:.2%}", "<= 1 %", apart <= 0.01)
    line("  tasks that only one of them, or neither, completed", str(missing))


def bench_scaling(quick: bool) -> None:
    """Cost per scenario at many scenarios over that at eight."""
    most = 512 if quick else 4096
    planner = Cave()
    small, large = random_epoch(8, 4, 12), random_epoch(most, 4, 12)
    ratio = clock(lambda: planner.assign(large), 1) / most / (clock(lambda: planner.assign(small)) / 8)
    line(f"planner, cost per scenario at S = {most} / at S = 8", f"{ratio:.2f}", "<= 1", ratio <= 1)
    settings = Settings(warmup=1, counted=2, drain=1)
    simulator = Simulator(settings, Ring(warmup=5.0), Greedy(), 0)
    many = clock(lambda: simulator.run(torch.arange(most // 4)), 1) / (most // 4)
    ratio = many / (clock(lambda: simulator.run(torch.arange(8)), 1) / 8)
    line(f"simulator, cost per scenario at S = {most // 4} / at S = 8", f"{ratio:.2f}", "<= 1", ratio <= 1)


def main() -> None:
    """Run all five and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it runs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    logging.getLogger("pyswarms").setLevel(logging.ERROR)
    for bench in (bench_planner, bench_quality, bench_time_to_gap, bench_simulator, bench_scaling):
        bench(quick)


if __name__ == "__main__":
    main()
