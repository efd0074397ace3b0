"""The loop in time against queueing theory, and what may and may not change a run."""

import math
from typing import Any

import pytest
import torch

from decathlon.tasks.cave import Cave, Cover, FpsoMr, Greedy, Local
from decathlon.tasks.cave.metrics import scenario_rows, simulation_metrics, wilson
from decathlon.tasks.cave.simulator.loop import Simulator
from decathlon.tasks.cave.simulator.outcome import DONE, FAILED, Outcome
from decathlon.tasks.cave.simulator.replicas import Replicas, advance, frozen_shares
from decathlon.tasks.cave.simulator.settings import Settings
from decathlon.tasks.cave.simulator.traffic import Ring
from tests.tasks.cave.roads import NOBODY, Parked

# One processor without failures: mean work 0.875 Gcycle at 1.75 Gcycle/s, half a second; load 1/2 at one task a second.
QUEUE: dict[str, Any] = dict(
    rate=1.0, local_speed=1.75, local_hazard=0.0, dt=0.1, epoch=0.1, warmup=10, counted=20, drain=12, candidates=1
)
ROAD: dict[str, Any] = dict(warmup=1, counted=3, drain=2, rate=12)


def run(settings: dict, planner: Any, scenarios: int, traffic: Any = NOBODY, seed: int = 0) -> Outcome:
    return Simulator(Settings(**settings), traffic, planner, seed).run(torch.arange(scenarios))[0]


def counted(outcome: Outcome, settings: dict) -> torch.Tensor:
    start = settings["warmup"]
    return (outcome.arrival >= start) & (outcome.arrival < start + settings["counted"])


def mean_latency(outcome: Outcome, settings: dict) -> float:
    some = counted(outcome, settings) & (outcome.status == DONE)
    return float((outcome.finish - outcome.arrival)[some].mean())


def test_equal_shares_are_a_processor_sharing_queue() -> None:
    outcome = run(QUEUE, Local(), 1000)
    some = counted(outcome, QUEUE)
    assert (outcome.status[some] == DONE).all()
    wait = QUEUE["epoch"] / 2
    assert mean_latency(outcome, QUEUE) - wait == pytest.approx(0.5 / (1 - 0.5), rel=0.05)
    # Little's law: mean number in the system is the rate of arrivals times the mean time in it.
    ticks = slice(100, 300)
    inside = float(outcome.inside[:, ticks].double().mean())
    assert inside == pytest.approx(int(some.sum()) / (1000 * 20) * mean_latency(outcome, QUEUE), rel=0.03)


def test_short_work_first_is_fastest_and_square_roots_are_slowest_in_the_loop() -> None:
    short = {**QUEUE, "warmup": 4, "counted": 12, "drain": 6}
    times = {name: mean_latency(run(short, Local(allocation=name), 120), short) for name in ("srpt", "equal", "sqrt")}
    assert times["srpt"] < times["equal"] < times["sqrt"]


def test_no_compute_is_lost_while_somebody_computes() -> None:
    g = torch.Generator().manual_seed(0)
    rows = 60
    scenario, vehicle = torch.randint(0, 3, (rows,), generator=g), torch.randint(0, 4, (rows,), generator=g)
    speed = 1 + torch.rand(3, 4, generator=g, dtype=torch.float64)
    cycles = 5 + torch.rand(rows, generator=g, dtype=torch.float64)
    zero, never = torch.zeros(rows, dtype=torch.float64), torch.full((rows,), math.inf, dtype=torch.float64)
    upload = 0.4 * (torch.rand(rows, generator=g) < 0.3).double()
    for allocation in ("sqrt", "equal", "proportional", "srpt"):
        table = Replicas(
            scenario, torch.arange(rows), vehicle, upload.clone(), cycles.clone(), zero.clone(), cycles, zero, never,
            zero, never.clone(), never.clone(),
        )  # fmt: skip
        table.share = frozen_shares(table, allocation, "work_conserving", 4, 3)
        busy = torch.zeros(3, 4, dtype=torch.bool)
        busy[scenario[upload == 0], vehicle[upload == 0]] = True
        done = advance(
            table, 0.0, 0.1, torch.full((rows,), 20.0).double(), speed, "work_conserving", allocation == "srpt"
        )
        torch.testing.assert_close(done.computed[busy], 0.1 * speed[busy], rtol=1e-9, atol=0)
        # An upload of 0.4 Mbit at 20 Mbit/s ends inside the tick, and its vehicle computes from then on.
        late = torch.zeros(3, 4, dtype=torch.bool)
        late[scenario, vehicle] = True
        torch.testing.assert_close(done.computed[late & ~busy], 0.08 * speed[late & ~busy], rtol=1e-9, atol=0)
        torch.testing.assert_close(table.sent[upload > 0], torch.full_like(table.sent[upload > 0], 0.02))


def test_fixed_shares_take_what_the_closed_form_says() -> None:
    work = torch.tensor([0.3, 0.9, 2.0], dtype=torch.float64)
    none, never = torch.zeros(3, dtype=torch.float64), torch.full((3,), math.inf, dtype=torch.float64)
    whole = torch.zeros(3, dtype=torch.int64)
    table = Replicas(whole, torch.arange(3), whole, none, work.clone(), none, work, none, never, none, none, never)
    table.share = frozen_shares(table, "sqrt", "fixed", 1, 1)
    finish = advance(table, 0.0, 100.0, never, torch.tensor([[2.0]]).double(), "fixed", False).finish
    assert float(finish.sum()) == pytest.approx(float(work.sqrt().sum()) ** 2 / 2.0)


@pytest.mark.parametrize("target", [1e-3, 0.99])
def test_as_many_replicas_survive_as_the_model_says(target: float) -> None:
    settings = dict(
        rate=0.3, warmup=0, counted=15, drain=10, local=False, candidates=6, participation=1.0, hazard=(0.4, 0.4),
        target=target, shadowing=0.0, speed=(2, 2),
    )  # fmt: skip
    outcome = run(settings, Greedy(), 500, Parked(6))
    some = counted(outcome, settings)
    planned, realised = outcome.planned[some].mean(), (outcome.status[some] == DONE).double().mean()
    if target < 0.5:
        assert (outcome.replicas[some] == 1).all()
    else:
        assert outcome.replicas[some].double().mean() > 2
    error = math.sqrt(float(planned * (1 - planned)) / int(some.sum()))
    assert abs(float(realised - planned)) < 3 * error + 0.01


@pytest.mark.parametrize(
    "planner",
    [
        Cave(particles=8, iterations=5), Cave(particles=8, iterations=5, encoding="priority", polish=True),
        FpsoMr(particles=8, iterations=5), Greedy(allocation="srpt"), Cover("random"),
    ],
    ids=["cave", "priority", "fpso", "srpt", "random"],
)  # fmt: skip
def test_a_scenario_runs_to_the_same_bits_alone_and_in_any_batch(planner: Any) -> None:
    road = Ring(warmup=5.0)
    simulator = Simulator(Settings(**ROAD, blockage=True, channel="shared"), road, planner, 3)
    whole, _ = simulator.run(torch.tensor([5, 1, 8, 2]))
    alone, recording = simulator.run(torch.tensor([8]), record=0)
    for name in (
        "arrival",
        "finish",
        "status",
        "replicas",
        "planned",
        "spent",
        "wasted",
        "used",
        "offered",
        "objective",
    ):
        left, right = getattr(whole, name)[2], getattr(alone, name)[0]
        assert torch.equal(left.nan_to_num(-1.0), right.nan_to_num(-1.0)), name
    assert recording is not None and recording.replicas and recording.frames


def test_the_world_is_the_same_for_all_methods() -> None:
    first, second = (run(ROAD, planner, 3, Ring(warmup=1.0)) for planner in (Greedy(), Cover("random")))
    assert torch.equal(first.arrival, second.arrival) and torch.equal(first.offered, second.offered)
    assert not torch.equal(first.finish, second.finish)
    other = run(ROAD, Greedy(), 3, Ring(warmup=1.0), seed=1)
    assert not torch.equal(first.arrival, other.arrival)


def test_the_tick_hardly_matters() -> None:
    settings = dict(warmup=2, counted=16, drain=6, rate=5, shadowing=0.0)
    coarse, fine = (
        mean_latency(run({**settings, "dt": dt}, Greedy(), 16, Ring(warmup=0.0, follow=False)), settings)
        for dt in (0.1, 0.05)
    )
    assert coarse == pytest.approx(fine, rel=0.03)


def test_alone_in_the_system_no_switch_matters() -> None:
    settings = dict(
        rate=0.05, warmup=0, counted=30, drain=10, hazard=(1e-9, 1e-9), participation=1.0, target=0.3, shadowing=0.0,
        local=False,
    )  # fmt: skip
    plain = run(settings, Greedy(), 12, Parked(3))
    lonely = plain.inside.amax(1) <= 1
    assert lonely.sum() >= 4 and int((plain.status == DONE)[lonely].sum()) > 3
    for change in (
        {"sharing": "fixed"},
        {"sharing": "reserved"},
        {"cancel": False},
        {"retry": 1},
        {"channel": "shared"},
    ):
        other = run({**settings, **change}, Greedy(), 12, Parked(3))
        torch.testing.assert_close(other.finish[lonely], plain.finish[lonely], rtol=1e-12, atol=0)
    for allocation in ("equal", "proportional", "srpt"):
        other = run(settings, Greedy(allocation=allocation), 12, Parked(3))
        torch.testing.assert_close(other.finish[lonely], plain.finish[lonely], rtol=1e-12, atol=0)


def test_retry_gives_a_second_chance_and_cancelling_saves_work() -> None:
    settings = dict(
        rate=3.0, warmup=0, counted=6, drain=5, hazard=(0.8, 0.8), participation=1.0, target=0.5, local=False
    )
    once, again = (run({**settings, "retry": tries}, Greedy(), 8, Parked(5)) for tries in (0, 1))
    assert ((again.status == DONE).sum() > (once.status == DONE).sum()) and (once.status == FAILED).any()
    busy = dict(rate=4.0, warmup=0, counted=6, drain=5, participation=1.0)
    free, kept = (run({**busy, "cancel": cancel}, Greedy(), 8, Parked(8)) for cancel in (True, False))
    assert (kept.spent >= free.spent).all() and kept.spent.sum() > free.spent.sum()


@pytest.mark.parametrize(
    ("change", "traffic"),
    [
        ({"rate": 0.0}, Parked(3)), ({"participation": 0.0}, Parked(3)), ({}, NOBODY),
        ({"local": False}, NOBODY), ({"hazard": (1e6, 1e6), "local": False}, Parked(3)),
        ({"speed": (0.0, 0.0)}, Parked(3)), ({"candidates": 1}, Parked(3)),
    ],
)  # fmt: skip
def test_nothing_to_do_and_nobody_to_do_it_are_valid_records(change: dict, traffic: Any) -> None:
    settings = {**ROAD, "participation": 1.0, **change}
    for planner in (Cave(particles=4, iterations=2), FpsoMr(particles=4, iterations=2), Greedy(), Cover("nearest")):
        outcome = run(settings, planner, 2, traffic)
        rows = scenario_rows([0, 1], outcome, Settings(**settings))
        metrics = simulation_metrics(rows, 0.99, 5.0)
        assert all(math.isfinite(value) for value in metrics.values())
        if settings["rate"] == 0:
            assert metrics["tasks"] == 0 and "latency" not in metrics
        elif not settings.get("local", True) and (traffic is NOBODY or change.get("hazard")):
            assert metrics["reliability"] == 0 and metrics["latency_effective"] == 5.0 and metrics["failed"] > 0


def test_metrics_by_hand() -> None:
    row = {
        "latency": [1.0, None, 6.0, 3.0], "failed": [False, True, False, False], "replicas": [1, 2, 3, 2],
        "planned": [0.9, 0.8, None, 1.0], "infeasible": [False, True, False, False], "spent": 4.0, "wasted": 1.0,
        "used": 2.0, "offered": 8.0, "in_system": 1.5, "objective": 6.0, "decisions": 3, "seconds": 0.3,
    }  # fmt: skip
    m = simulation_metrics([row], target=0.95, deadline=5.0)
    assert m["latency"] == pytest.approx(10 / 3) and m["latency_effective"] == pytest.approx((1 + 5 + 5 + 3) / 4)
    assert m["reliability"] == 0.75 and m["redundancy"] == 2.0 and m["infeasible"] == 0.25 and m["failed"] == 0.25
    assert m["violation"] == pytest.approx((0.05 + 0.15 + 0) / 3) and m["wasted_cycles"] == 0.25
    assert m["utilisation"] == 0.25 and m["objective"] == 2.0 and m["decision_ms"] == pytest.approx(100)
    assert m["reliability_gap"] == pytest.approx(0.9 - 0.75)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4) and wilson(10, 10)[1] == pytest.approx(1.0)
