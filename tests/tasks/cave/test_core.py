"""The assignment problem: objective, reliability, optimum, planners."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from decathlon.tasks.cave import (
    Cave,
    Cover,
    Epoch,
    Exact,
    FpsoMr,
    Greedy,
    Local,
    enumerate_all,
    lower_bound,
    objective,
    optimum,
    polish,
)
from decathlon.tasks.cave.encodings import highest, priority
from decathlon.tasks.cave.instances import random_epoch
from decathlon.tasks.cave.objective import add_deltas, drop_deltas, latencies, loads
from decathlon.tasks.cave.planners import Planner
from decathlon.tasks.cave.problems import LeastLatency, MostReliable
from decathlon.tasks.cave.swarm import Swarm, log_barrier
from tests.tasks.cave.epochs import plain_cover, plain_objective, random_assignments, random_world

SMALL: dict[str, Callable[..., Planner]] = {
    "cave": lambda **k: Cave(particles=8, iterations=6, **k),
    "priority": lambda **k: Cave(particles=8, iterations=6, encoding="priority", polish=True, **k),
    "sigmoid": lambda **k: Cave(particles=8, iterations=6, encoding="sigmoid", barrier="hinge", **k),
    "first": lambda **k: Cave(particles=8, iterations=6, objective="first", adaptation="death", **k),
    "mean": lambda **k: Cave(particles=8, iterations=6, objective="mean", adaptation="static", **k),
    "blind": lambda **k: Cave(particles=8, iterations=6, in_progress=False, greedy=True, **k),
    "fpso": lambda **k: FpsoMr(particles=8, iterations=6, **k),
    "random": lambda **k: Cover("random", **k),
    "nearest": lambda **k: Cover("nearest"),
    "contact": lambda **k: Cover("contact"),
    "quickest": lambda **k: Cover("quickest"),
    "greedy": lambda **k: Greedy(),
    "local": lambda **k: Local(),
    "exact": lambda **k: Exact(),
}
COVERS = [name for name in SMALL if name not in ("fpso", "local")]


def test_the_five_lines() -> None:
    K, N, S = 3, 5, 4
    C, w, D, O = torch.rand(S, K) + 0.2, torch.ones(S, K), torch.rand(S, K), 0.1 * torch.rand(S, K)
    R = torch.full((S, K), 0.95)
    F, r, lam, tau, B0 = (torch.rand(S, N) + low for low in (2, 20, 0.02, 5, 0))
    work, weight, active = torch.rand(2, 6), torch.ones(2, 6), torch.ones(2, 6, dtype=torch.bool)
    scope = dict(locals())
    code = """
from decathlon.tasks.cave import Epoch, Cave, allocate, optimum
epoch = Epoch(work=C, weight=w, upload=D, result=O, target=R, speed=F, rate=r, hazard=lam, contact=tau, load=B0)
plan = Cave(particles=40, iterations=60, seed=0).assign(epoch)
best = optimum(epoch)
shares = allocate(work, weight, active)
"""
    exec(code, scope)
    for plan in (scope["plan"], scope["best"]):
        assert plan.assignment.shape == (S, K, N) and plan.assignment.dtype == torch.bool
        assert plan.objective.shape == (S,) and plan.reliability.shape == (S, K)
        assert plan.infeasible.shape == (S, K) and plan.infeasible.dtype == torch.bool
        assert (plan.reliability >= 0.95 - 1e-9)[~plan.infeasible].all()
    assert (scope["plan"].objective >= scope["best"].objective - 1e-9).all()
    assert scope["shares"].shape == (2, 6)


def test_objective_is_the_sum_of_latencies_and_ignores_the_order_of_tasks_and_vehicles() -> None:
    epoch = random_world(4, 3, 5)
    every = random_assignments(epoch, 6)
    values = objective(epoch, every)
    for s in range(4):
        for c in range(6):
            assert float(values[s, c]) == pytest.approx(plain_objective(epoch, s, every[s, c]), rel=1e-9)
    k, n = torch.tensor([2, 0, 1]), torch.tensor([0, 3, 1, 4, 2])
    names = ("work", "weight", "upload", "result", "target")
    turned = epoch.replaced(
        **{name: getattr(epoch, name)[:, k] for name in names},
        **{name: getattr(epoch, name)[:, n] for name in ("speed", "rate", "hazard", "contact", "load")},
    )
    torch.testing.assert_close(objective(turned, every[:, :, k][:, :, :, n]), values, rtol=1e-12, atol=1e-12)


def test_objective_splits_into_latencies_of_new_replicas_and_harm_to_running_ones() -> None:
    epoch = random_world(4, 3, 5)
    every = random_assignments(epoch, 6)
    own = torch.where(every, epoch.weight[:, None, :, None] * latencies(epoch, every).nan_to_num(posinf=0), 0).sum(
        (2, 3)
    )
    harm = (epoch.load[:, None] * loads(epoch, every) / epoch.speed[:, None]).sum(2)
    torch.testing.assert_close(objective(epoch, every), own + harm)


def test_relaxation_is_convex_and_the_bound_is_below_the_optimum_is_below_everyone() -> None:
    epoch = random_epoch(6, 3, 5)
    g = torch.Generator().manual_seed(0)
    x, y = (torch.rand(6, 50, 3, 5, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.rand(6, 50, 1, 1, generator=g, dtype=torch.float64)
    mixed = objective(epoch, t * x + (1 - t) * y)
    assert (mixed <= t[..., 0, 0] * objective(epoch, x) + (1 - t[..., 0, 0]) * objective(epoch, y) + 1e-9).all()
    best = optimum(epoch)
    assert best.exact is not None and best.exact.all()
    bound = lower_bound(epoch)
    assert (bound <= best.objective + 1e-9).all() and (bound > 0.3 * best.objective).all()
    for name in COVERS:
        assert (SMALL[name]().assign(epoch).objective >= best.objective - 1e-9).all(), name


def test_optimum_is_what_enumeration_finds() -> None:
    for tasks, vehicles in ((1, 5), (2, 6), (3, 4), (4, 3)):
        for target in (0.5, 0.99, 0.99999):  # the last is out of reach for some
            epoch = random_epoch(8, tasks, vehicles, target=target)
            torch.testing.assert_close(optimum(epoch).objective, enumerate_all(epoch).objective, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match=r"2\^20"):
        enumerate_all(random_epoch(1, 4, 5))


def test_gaps_of_the_encodings() -> None:
    epoch = random_epoch(50, 3, 4)
    best = enumerate_all(epoch).objective
    hits = (Cave(encoding="priority").assign(epoch).objective < best * (1 + 1e-9)).double().mean()
    assert hits >= 0.8
    assert (Cave().assign(epoch).objective < best * (1 + 1e-9)).double().mean() > 0.25


@pytest.mark.slow
def test_gaps_at_four_tasks() -> None:
    epoch = random_epoch(20, 4, 8)
    best = optimum(epoch).objective
    assert (Cave(iterations=200).assign(epoch).objective / best).mean() <= 1.12
    assert (Cave(iterations=200, encoding="priority").assign(epoch).objective / best).mean() <= 1.05
    assert 1.1 < (Greedy().assign(epoch).objective / best).mean() < 1.3


def test_reliability_is_linear_in_the_assignment() -> None:
    epoch = random_world(5, 3, 5)
    every = random_assignments(epoch, 40)
    p = epoch.success[:, None]
    failure = torch.where(every, 1 - p, 1.0).prod(-1)
    reached = 1 - failure >= epoch.target[:, None] - 1e-9
    feasible = ~epoch.infeasible[:, None].expand_as(reached)
    covered = epoch.covered(every)
    assert torch.equal(covered[feasible], reached[feasible])
    assert covered[feasible].any() and not covered[feasible].all()


@pytest.mark.parametrize("name", COVERS)
def test_every_answer_is_feasible_or_flagged(name: str) -> None:
    for seed in range(3):
        epoch = random_world(6, 3, 5, seed)
        plan = SMALL[name](**({"seed": seed} if name in ("cave", "priority", "random") else {})).assign(epoch)
        seen = epoch.replaced(load=torch.zeros_like(epoch.load)) if name in ("blind", "quickest") else epoch
        assert seen.covered(plan.assignment).all()
        assert not (plan.assignment & ~epoch.usable).any()
        if seen is epoch:
            assert (plan.reliability >= epoch.target - 1e-9)[~plan.infeasible].all()


def test_a_tiny_target_takes_one_replica_and_the_optimum_grows_with_the_target() -> None:
    epoch = random_epoch(4, 2, 6)
    before = torch.zeros(4, dtype=torch.float64)
    for target in (1e-6, 0.5, 0.9, 0.99, 0.999):
        best = optimum(epoch.replaced(target=target))
        assert (best.objective >= before - 1e-9).all()
        if target == 1e-6:
            assert (best.assignment.sum(2) == 1).all()
        before = best.objective


def test_priority_decoding_equals_a_loop_and_has_no_vehicle_too_many() -> None:
    epoch = random_world(4, 3, 6)
    g = torch.Generator().manual_seed(3)
    position = torch.rand(3, 6, 4, 10, generator=g).clamp(0.1, 0.8)  # some equal
    share, usable = (t.movedim(0, -1).unsqueeze(-1) for t in (epoch.share, epoch.usable.double()))
    x = torch.empty(3, 6, 4, 10, dtype=torch.float64)
    priority(position, share, usable, x)
    top = torch.empty_like(x)
    highest(position, 2, usable, top)
    for k in range(3):
        for s in range(4):
            for p in range(10):
                order = sorted(range(6), key=lambda n: (-float(position[k, n, s, p]), n))
                shares = epoch.share[s, k].tolist()
                taken = plain_cover([n for n in order if epoch.usable[s, k, n]], shares)
                assert set(x[k, :, s, p].nonzero()[:, 0].tolist()) == taken
                if taken:
                    last = max(taken, key=order.index)
                    assert sum(shares[n] for n in taken) >= 1 - 1e-9 > sum(shares[n] for n in taken - {last})
                above = [n for n in order if epoch.usable[s, k, n] and position[k, n, s, p] > 0.5][:2]
                assert set(top[k, :, s, p].nonzero()[:, 0].tolist()) == set(above)


def test_deltas_are_differences_of_the_objective() -> None:
    epoch = random_world(2, 3, 4)
    x = random_assignments(epoch, 1)[:, 0]
    added, value = loads(epoch, x), objective(epoch, x)
    add, drop = add_deltas(epoch, added), drop_deltas(epoch, added)
    for k in range(3):
        for n in range(4):
            changed = x.clone()
            changed[:, k, n] = ~changed[:, k, n]
            delta = torch.where(x[:, k, n], drop[:, k, n], add[:, k, n])
            there = epoch.usable[:, k, n]
            torch.testing.assert_close((objective(epoch, changed) - value)[there], delta[there], rtol=1e-9, atol=1e-9)


def test_polish_never_worsens_and_leaves_no_improving_move() -> None:
    epoch = random_epoch(20, 4, 6)
    start = Cover("random").assign(epoch).assignment
    end = polish(epoch, start)
    assert epoch.covered(end).all() and (objective(epoch, end) <= objective(epoch, start)).all()
    assert torch.equal(polish(epoch, end), end)
    assert objective(epoch, end).mean() < 0.9 * objective(epoch, start).mean()


def test_the_archive_never_gets_worse() -> None:
    for encoding in ("threshold", "sigmoid", "priority"):
        history = Cave(encoding=encoding, iterations=25).assign(random_epoch(5, 3, 5)).history
        assert history is not None and (history[1:] <= history[:-1]).all()


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_scenario_gets_the_same_plan_alone_and_in_any_batch(name: str) -> None:
    tasks = torch.rand(7, 4, generator=torch.Generator().manual_seed(2)) < 0.7
    epoch = random_world(7, 4, 6, tasks=tasks)
    seeded = {"seed": 5} if name not in ("nearest", "contact", "quickest", "greedy", "local", "exact") else {}
    ids = torch.tensor([9, 3, 12, 4, 0, 1, 44])
    whole = SMALL[name](**seeded).assign(epoch, ids, step=3)
    again = SMALL[name](**seeded).assign(epoch, ids, step=3)
    assert torch.equal(whole.assignment, again.assignment)
    for place in range(7):
        length = max(1, int((tasks[place] * torch.arange(1, 5)).max()))
        one = epoch.narrowed(torch.tensor([place]), length)
        plan = SMALL[name](**seeded).assign(one, ids[place : place + 1], step=3)
        assert torch.equal(plan.assignment[0], whole.assignment[place, :length])
        assert torch.equal(plan.objective[0], whole.objective[place])
        assert torch.equal(plan.reliability[0], whole.reliability[place, :length])


def test_seeds_steps_and_scenarios_differ() -> None:
    epoch = random_epoch(1, 6, 10)
    plans = [
        Cave(particles=5, iterations=3, seed=seed).assign(epoch, torch.tensor([scenario]), step).objective
        for seed, scenario, step in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert len({float(plan) for plan in plans}) == 4


def test_particles_have_numbers_of_their_own() -> None:
    from decathlon.tasks.cave import streams

    random = streams.FastUniform(streams.key(torch.arange(3), 0), 4, (5, 6, 20))
    for step in range(4):
        for numbers in random.draw(step):
            assert len(numbers.flatten().unique()) > 0.97 * numbers.numel()
            assert float(numbers.min()) > 0 and float(numbers.max()) < 1
    first, second = (part.clone() for part in random.draw(0))
    other, _ = random.draw(1)
    pairs = (first, second), (first, other), (first[1:], first[:-1]), (first[..., 1:], first[..., :-1])
    for left, right in pairs:
        assert abs(float(torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1])) < 0.1


def test_evaluations_of_the_swarms_are_the_objectives() -> None:
    epoch = random_world(3, 4, 5)
    every = random_assignments(epoch, 7)
    x = every.permute(2, 3, 0, 1).double().contiguous()
    cost, slack = LeastLatency(epoch, 7).evaluate(x)
    torch.testing.assert_close(cost, objective(epoch, every))
    torch.testing.assert_close(slack, torch.where(epoch.open[:, None], epoch.cover(every) - 1, 1.0).permute(2, 0, 1))
    shortest = torch.where(every, latencies(epoch, every), torch.inf).amin(3)
    first, _ = LeastLatency(epoch.replaced(weight=1.0), 7, "first").evaluate(x)
    plain = epoch.replaced(weight=1.0)
    shortest = latencies(plain, every).amin(3)
    harm = (plain.load[:, None] * loads(plain, every) / plain.speed[:, None]).sum(2)
    torch.testing.assert_close(first, torch.where(every.any(3), shortest, 0.0).sum(2) + harm)
    failure, slack = MostReliable(epoch, 7, limit=2.0).evaluate(x)
    p = torch.where(every, 1 - epoch.success[:, None], 1.0).prod(3)
    torch.testing.assert_close(failure, torch.where(epoch.open[:, None], p, 0.0).sum(2))
    for s, c, k in ((0, 0, 0), (1, 3, 2), (2, 6, 3)):
        on = every[s, c, k].nonzero()[:, 0].tolist()
        together = every[s, c].sum(0)
        times = [float(epoch.communication[s, k, n] + epoch.work[s, k] * together[n] / epoch.speed[s, n]) for n in on]
        wanted = 1 - sum(times) / len(times) / 2.0 if on else -1.0
        assert float(slack[k, s, c]) == pytest.approx(wanted)


def test_barrier_is_continuous_with_its_tangent() -> None:
    s = torch.tensor([-2.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 7.0], dtype=torch.float64)[None, None]
    values = log_barrier(s, s[0].clamp(max=0).neg())[0]
    edge = math.log(1.05 / 0.05)
    assert values.tolist() == pytest.approx([edge + 40, edge, edge, edge, math.log(1.05 / 0.55), 0, 0], abs=1e-6)
    many = torch.full((400, 1, 1), 0.0, dtype=torch.float64)  # their product would underflow
    assert float(log_barrier(many, many[0])) == pytest.approx(400 * edge)


def test_without_load_the_blind_planner_is_the_seeing_one_and_alone_all_assign_alike() -> None:
    epoch = random_world(4, 3, 5, load=torch.zeros(4, 5))
    seeing, blind = (Cave(particles=8, iterations=5, in_progress=seen).assign(epoch) for seen in (True, False))
    assert torch.equal(seeing.assignment, blind.assignment)
    vehicles = torch.zeros(4, 5, dtype=torch.bool)
    vehicles[:, 0] = True
    nobody = random_world(4, 3, 5, vehicles=vehicles)
    wanted = Local().assign(nobody).assignment
    for name, make in SMALL.items():
        assert torch.equal(make().assign(nobody).assignment, wanted), name


@pytest.mark.parametrize("name", sorted(SMALL))
def test_nothing_to_plan_or_nobody_to_ask_is_no_nan(name: str) -> None:
    planner = SMALL[name]()
    for tasks, options in ((0, {}), (2, {"rate": 0.0}), (2, {"hazard": 1e9}), (2, {"speed": torch.zeros(3, 4)})):
        epoch = random_world(3, tasks, 4, **options)
        plan = planner.assign(epoch)
        for part in (plan.objective, plan.reliability):
            assert part.isfinite().all()
        assert plan.assignment.shape == (3, tasks, 4)
    vehicles = torch.zeros(3, 4, dtype=torch.bool)
    if name != "local":
        hopeless = random_world(3, 2, 4, local=False, vehicles=vehicles)
        plan = planner.assign(hopeless)
        assert plan.infeasible.all() and not plan.assignment.any() and (plan.reliability == 0).all()
    for shape in ((0, 2, 4), (3, 2, 0)):
        epoch = random_world(*shape, local=False)
        if name != "local":
            assert planner.assign(epoch).assignment.shape == shape


def test_types_that_people_pass_to_an_epoch() -> None:
    rows = np.random.default_rng(0).uniform(0.5, 1, (2, 3)).astype(np.float16)
    columns = torch.rand(2, 4, dtype=torch.bfloat16) + 1
    epoch = Epoch(
        work=rows, weight=np.float32(1.0), upload=torch.ones(2, 3, dtype=torch.int64), result=0, target=0.9,
        speed=columns.requires_grad_(), rate=30, hazard=np.float64(0.1), contact=float("inf"), load=0.0,
    )  # fmt: skip
    plan = Cave(particles=np.int64(4), iterations=2).assign(epoch)  # type: ignore[arg-type]
    assert plan.objective.dtype == torch.float64 and plan.objective.isfinite().all()
    assert not plan.objective.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 1.0}, "target=1 must lie between 0 and 1"),
        ({"target": 0.0}, "target=0 must lie"),
        ({"rate": -1.0}, "rate must not be negative"),
        ({"work": torch.full((2, 3), float("nan"))}, "work has NaN"),
        ({"work": torch.ones(3)}, "two dimensions"),
        ({"work": torch.ones(2, 3) * 1j}, "complex"),
        ({"speed": torch.ones(5, 4)}, "scenarios"),
        ({"load": torch.ones(2, 3)}, r"load has shape \(2, 3\), not \(2, 4\)"),
        ({"upload": float("inf")}, "upload has an infinite value"),
        ({"weight": 0.0}, "weight must be positive"),
        ({"tasks": torch.ones(2, 3)}, "tasks must be bool"),
        ({"success": 2.0}, "success must lie between 0 and 1"),
        ({"local_reliability": 1.0}, "local_reliability"),
        ({"inflation": 0.0}, "inflation"),
        ({"hazard": "often"}, "hazard is no tensor"),
    ],
)
def test_a_wrong_epoch_is_one_line(change: dict, message: str) -> None:
    good: dict = dict(
        work=torch.ones(2, 3), weight=1.0, upload=1.0, result=0.1, target=0.9, speed=torch.ones(2, 4), rate=30.0,
        hazard=0.1, contact=9.0, load=0.0,
    )  # fmt: skip
    Epoch(**good)
    with pytest.raises(ValueError, match=message) as caught:
        Epoch(**{**good, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cave(encoding="gray"), "encoding=gray is unknown; choose threshold"),
        (lambda: Cave(barrier="wall"), "barrier=wall"),
        (lambda: Cave(adaptation="no"), "adaptation=no"),
        (lambda: Cave(particles=0), "particles=0"),
        (lambda: Cave(allocation="fair"), "allocation=fair is unknown; choose sqrt"),
        (lambda: Cave(objective="last"), "objective=last"),
        (lambda: Cave(objective="first", polish=True), "polish needs"),
        (lambda: FpsoMr(limit=0), "limit=0"),
        (lambda: FpsoMr(replicas=0), "replicas=0"),
        (lambda: Cover("alphabetical"), "order=alphabetical"),
        (lambda: Exact(seconds=-1), "seconds=-1"),
        (lambda: Swarm(growth=1.0), "growth"),
        (lambda: Local().assign(random_epoch(1, 2, 3)), "local=true"),
        (lambda: Cave().assign(random_epoch(2, 2, 3), torch.tensor([1])), "scenarios has shape"),
    ],
)
def test_a_wrong_planner_is_one_line(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
