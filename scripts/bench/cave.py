"""Speed and quality of CAVE's planner and simulator against named peers, as ratios within one run on one thread.

1. The planner at S = 64 scenarios, K = 8 tasks, N = 12 vehicles, P = 40 particles, I = 60 iterations, against pyswarms'
   GlobalBestPSO and BinaryPSO with a vectorised objective, and a NumPy swarm that loops over its particles. The peers
   plan one scenario after the other; ``--quick`` gives them fewer and scales up.
2. Quality at equal evaluations (P = 40, I = 200): J over the optimum, pyswarms' BinaryPSO beside it.
3. Time to a gap of 3 % against the MILP at K = 6, N = 12.
4. The simulator at S = 256 against a simpy program of the same model (a vehicle is a processor-sharing server, tasks are
   processes), with equal arrivals, sizes, and assignments in turn; latencies side by side.
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
from typing import Any

import numpy as np
import torch

from decathlon.tasks.cave import Cave, Epoch, Local, optimum
from decathlon.tasks.cave.instances import random_epoch
from decathlon.tasks.cave.simulator.loop import DONE, Simulator
from decathlon.tasks.cave.simulator.settings import Settings
from decathlon.tasks.cave.simulator.world import arrivals

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
    ours = {name: clock(lambda p=Cave(encoding=name): p.assign(epoch)) for name in ("threshold", "priority")}
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
        seconds = clock(lambda plan=plan: [plan(s) for s in range(share)], 1 if quick else 2) * 64 / share
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


class Nobody:
    """Traffic without vehicles: the ego serves all, so that a simpy program of the same model stays readable."""

    def begin(self, scenarios: torch.Tensor, dt: float, horizon: float) -> "Nobody":
        """See ``TrafficModel``."""
        self.ids = torch.zeros(len(scenarios), 0, dtype=torch.int64)
        return self

    def advance(self) -> None:
        """Nothing moves."""

    def relative(self) -> tuple[torch.Tensor, ...]:
        """Nobody is there."""
        nothing = torch.zeros(self.ids.shape, dtype=torch.float64)
        return nothing, nothing, nothing, nothing, nothing


def simpy_latencies(settings: Settings, times: list[float], work: list[float]) -> list[float]:
    """One scenario as a simpy program: a decision every ``epoch``, a processor-sharing server, one process per task."""
    import simpy

    world = simpy.Environment()
    running: dict[int, float] = {}
    state = {"last": 0.0, "wake": None}
    finish: dict[int, float] = {}

    def settle() -> None:
        passed = world.now - state["last"]
        state["last"] = world.now
        if running and passed > 0:
            served = passed * settings.local_speed / len(running)
            for task in running:
                running[task] -= served

    def server() -> Any:
        while True:
            settle()
            for task in [task for task, left in running.items() if left <= 1e-9]:
                finish[task] = world.now
                del running[task]
            state["wake"] = world.event()
            if running:
                pause = min(running.values()) * len(running) / settings.local_speed
                yield world.timeout(max(pause, 0.0)) | state["wake"]
            else:
                yield state["wake"]

    def task_process(task: int) -> Any:
        yield world.timeout(times[task])
        epoch = settings.epoch
        yield world.timeout(math.ceil(times[task] / epoch - 1e-9) * epoch - times[task])
        settle()
        running[task] = work[task]
        state["wake"].succeed() if not state["wake"].triggered else None

    world.process(server())
    for task in range(len(times)):
        world.process(task_process(task))
    world.run(until=settings.horizon)
    return [finish.get(task, math.inf) - times[task] for task in range(len(times))]


def bench_simulator(quick: bool) -> None:
    """S = 256 against simpy, on the model that both have: tasks of one vehicle."""
    if not importlib.util.find_spec("simpy"):
        print("simpy is not installed: its rows are left out")
        return
    settings = Settings(
        rate=10.0, local_speed=14.0, local_hazard=0.0, candidates=1, warmup=5, counted=17, drain=8
    )  # load 0.63
    count = 64 if quick else 256
    ids = torch.arange(count)
    simulator = Simulator(settings, Nobody(), Local(), 0)
    ours = clock(lambda: simulator.run(ids), 1 if quick else 2)
    outcome, _ = simulator.run(ids)
    tasks = arrivals(settings, ids, 0)
    start, latencies, mine = time.process_time(), [], []
    some = 16 if quick else 64
    for s in range(some):
        here = tasks.arrival[s].isfinite()
        latencies.append(simpy_latencies(settings, tasks.arrival[s][here].tolist(), tasks.work[s][here].tolist()))
    theirs = (time.process_time() - start) / some
    for s in range(some):
        here = tasks.arrival[s].isfinite()
        times = torch.tensor(latencies[s], dtype=torch.float64)
        both = times.isfinite() & (outcome.status[s][here] == DONE)
        mine.append([(outcome.finish[s] - outcome.arrival[s])[here][both], times[both]])
    left, right = (torch.cat([pair[side] for pair in mine]).mean() for side in (0, 1))
    ratio = theirs / (ours / count)
    line(f"simpy / our simulator, S = {count}, CPU time per scenario", f"{ratio:.1f}", ">= 3", ratio >= 3)
    apart = abs(float(left / right) - 1)
    line("  mean latencies differ by", f"{apart:.2%}", "<= 1 %", apart <= 0.01)


def bench_scaling(quick: bool) -> None:
    """Cost per scenario at many scenarios over that at eight."""
    most = 512 if quick else 4096
    planner = Cave()
    small, large = random_epoch(8, 4, 12), random_epoch(most, 4, 12)
    ratio = clock(lambda: planner.assign(large), 1) / most / (clock(lambda: planner.assign(small)) / 8)
    line(f"planner, cost per scenario at S = {most} / at S = 8", f"{ratio:.2f}", "<= 1", ratio <= 1)
    from decathlon.tasks.cave import Greedy
    from decathlon.tasks.cave.simulator.traffic import Ring

    settings = Settings(warmup=1, counted=2, drain=1)
    simulator = Simulator(settings, Ring(warmup=5.0), Greedy(), 0)
    many = clock(lambda: simulator.run(torch.arange(most // 4)), 1) / (most // 4)
    ratio = many / (clock(lambda: simulator.run(torch.arange(8)), 1) / 8)
    line(f"simulator on the highway, cost per scenario at S = {most // 4} / at S = 8", f"{ratio:.2f}", "<= 1", ratio <= 1)


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
