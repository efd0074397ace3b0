"""The solvers: agreement with each other and with published packages, verdicts, interrupted and resumed work."""

import importlib.util
import math
from typing import Any

import pytest
import torch

from decathlon.errors import ConfigError
from decathlon.tasks.ndde import DDE, Unknown, UnknownHistory, fit, problems, solve
from decathlon.tasks.ndde.observations import Observations, observe
from decathlon.tasks.ndde.solution import relative_error, uniform_times
from decathlon.tasks.ndde.solvers import (
    Classical,
    DDEint,
    JiTCDDE,
    Pinn,
    Shooting,
    Solver,
    Spectral,
    Steps,
    TorchDDE,
    Windows,
)
from decathlon.tasks.ndde.verdict import conclude

FIVE = torch.tensor([2.0, 4.0, 6.0, 8.0, 10.0], dtype=torch.float64)


def run(solver: Solver, problem: DDE, observations: Observations | None = None, seed: int = 0) -> Solver:
    solver.begin(problem, observations, seed)
    for _ in range(solver.blocks):
        solver.advance()
    return solver


def error(solver: Solver, problem: DDE) -> float:
    t = uniform_times(problem)
    wanted = solve(problem).rows(t) if problem.exact is None else problem.exact(t)[None]
    return float(relative_error(solver.solution().rows(t).detach(), wanted).max())


def five_points(tau: float = 1.0) -> tuple[DDE, Observations]:
    problem = problems.linear(tau)
    unknown = problem.unknown(tau=0.0)
    return unknown, observe(unknown, FIVE, problem.exact(FIVE))


@pytest.mark.parametrize("name", ["linear", "oscillating", "quad", "sir", "neutral", "pantograph", "stiff"])
def test_collocation_by_windows_finds_the_solution(name: str) -> None:
    problem = getattr(problems, name)()
    if problem.exact is None:
        reference = solve(problem, step=(problem.span[1] - problem.span[0]) / 2000)
        problem.exact = reference  # type: ignore[assignment]
    t = uniform_times(problem, 301)
    wanted = problem.instance().rows(problem.exact(t), 301, "exact")
    for solver, bound in ((Spectral(), 1e-9), (Windows(), 1e-6)):
        found = run(solver, problem).solution().rows(t)
        assert float(relative_error(found, wanted).max()) < bound, solver


def test_levenberg_marquardt_trains_a_network() -> None:
    problem = problems.linear(1.0).known(span=(0.0, 3.0))
    solver = Pinn(points=60, adam=100, bfgs=25, second="lm", weights="uniform", stage2="uniform", widths=[10])
    solver.begin(problem, None, 0)
    solver.advance()
    before = float(solver.losses.sum())
    solver.advance()
    assert float(solver.losses.sum()) < 1e-2 * before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_papers_recipe_at_small_scale(seed: int) -> None:
    problem = problems.linear(1.0)
    assert error(run(Pinn(points=300, adam=2000, bfgs=1000), problem, None, seed), problem) < 1e-2
    unknown, observations = five_points()
    found = run(Pinn(points=300, adam=2000, bfgs=1000), unknown, observations, seed).fit()
    assert found.ok and abs(found.estimates["tau"] - 1) < 1e-2


@pytest.mark.slow
def test_bfgs_after_adam_gains_more_than_ten_over_adam_alone() -> None:
    problem = problems.linear(1.0)
    both = error(run(Pinn(points=300, adam=2000, bfgs=800), problem), problem)
    alone = error(run(Pinn(points=300, adam=4500, bfgs=0, rate="constant"), problem), problem)
    assert alone > 10 * both


@pytest.mark.parametrize("method", ["shooting", "windows"])
def test_the_delay_of_c_from_five_points_and_the_start_0(method: str) -> None:
    unknown, observations = five_points()
    options: dict[str, Any] = {"starts": 1} if method == "windows" else {}
    found = fit(unknown, observations.times, observations.values, method, **options)
    assert found.ok and abs(found.estimates["tau"] - 1) < (1e-8 if method == "shooting" else 1e-4)


def test_unknown_coefficients_partly_observed_and_missing_cells() -> None:
    problem = problems.sir()
    times = torch.linspace(0.5, 10, 12, dtype=torch.float64)
    values = solve(problem, step=0.02)(times)
    values[2] = math.nan  # R is not observed
    values[0, ::2] = math.nan
    unknown = problem.unknown(tau2=Unknown(1.5, low=0.5, high=4.0), beta=0.5)
    found = fit(unknown, times, values, starts=2, steps=50, fine_steps=200)
    assert found.ok
    assert abs(found.estimates["tau2"] - 2) < 1e-4 and abs(found.parameters["beta"] - 0.7) < 1e-4
    assert found.delays[0] == 4.0 and found.parameters["alpha"] == 0.3
    assert bool(torch.isnan(found.residuals[2]).all())


def test_an_unknown_history_is_found_with_the_delay() -> None:
    truth = DDE(lambda t, y, delayed: -delayed(0), [1.0], lambda t: 1 + t / 2, (0.0, 8.0))
    times = torch.linspace(0.4, 8, 20, dtype=torch.float64)
    values = solve(truth, step=0.02)(times)
    unknown = DDE(truth.rhs, [Unknown(0.6)], UnknownHistory(2.0, degree=1, start=0.5), (0.0, 8.0))
    found = fit(unknown, times, values, starts=2, steps=50, fine_steps=200)
    assert found.ok and abs(found.delays[0] - 1) < 1e-3
    assert abs(float(found.solution(-0.5)) - 0.75) < 1e-2


def test_standard_errors_are_those_of_repeated_experiments() -> None:
    problem = problems.linear(1.0)
    unknown = problem.unknown(tau=0.9)
    times = torch.linspace(0.5, 10, 20, dtype=torch.float64)
    exact, random = problem.exact(times), torch.Generator().manual_seed(0)
    estimates, errors = [], []
    for _ in range(12):
        noisy = exact + 0.05 * torch.randn(20, generator=random, dtype=torch.float64)
        found = fit(unknown, times, noisy, starts=1, steps=40, fine_steps=60)
        estimates.append(found.estimates["tau"])
        errors.append(found.standard_errors["tau"])
    spread = float(torch.tensor(estimates).std())
    assert 0.5 < sum(errors) / len(errors) / spread < 2


@pytest.mark.parametrize(("value", "word"), [(-0.2, "window"), (0.0, "window"), (11.0, "window"), (math.nan, "finite")])
def test_a_delay_outside_of_the_window_is_a_failure_and_no_number(value: float, word: str) -> None:
    unknown, observations = five_points()
    found = conclude(unknown, observations, torch.tensor([value], dtype=torch.float64), None)
    assert found.verdict.startswith("failed:") and word in found.verdict and not found.ok
    assert math.isnan(found.standard_errors["tau"]) and found.problem is None


def test_a_network_that_has_not_converged_says_so() -> None:
    unknown, observations = five_points()
    found = fit(unknown, observations.times, observations.values, "pinn", adam=3, bfgs=2, points=20)
    assert (not found.ok and "not converged" in found.verdict) or "window" in found.verdict


def test_what_the_observations_do_not_determine_is_said() -> None:
    def rhs(t: torch.Tensor, y: torch.Tensor, delayed: Any, p: Any) -> torch.Tensor:
        return -delayed(0) + 0 * p.a

    unknown = DDE(rhs, [Unknown(0.8)], 1.0, (0.0, 5.0), {"a": Unknown(1.0)})
    found = fit(unknown, [1.0, 2.0, 3.0], [0.1, -0.3, -0.2], starts=1)
    assert "not identifiable" in found.verdict and "a" in found.verdict
    same = DDE(
        lambda t, y, delayed, p: -(p.a + p.b) * delayed(0),
        [1.0],
        1.0,
        (0.0, 5.0),
        {"a": Unknown(0.3), "b": Unknown(0.4)},
    )
    assert "not identifiable" in fit(same, [1.0, 2.0, 3.0], [0.1, -0.3, -0.2], starts=1).verdict


@pytest.mark.parametrize("kind", ["pinn", "lm", "windows", "shooting", "steps", "spectral"])
def test_work_that_stops_goes_on_to_the_same_bits(kind: str) -> None:
    def make() -> Solver:
        if kind == "pinn":
            return Pinn(points=20, adam=150, bfgs=80, widths=[5])
        if kind == "lm":
            return Pinn(points=20, adam=150, bfgs=8, second="lm", widths=[5])
        if kind == "windows":
            return Windows(starts=1, inverse_windows=4, iterations=5)
        if kind == "shooting":
            return Shooting(starts=3, fine_steps=100)
        return Steps(steps=50) if kind == "steps" else Spectral()

    unknown, observations = five_points()
    problem, given = (problems.linear(1.0), None) if kind in ("steps", "spectral") else (unknown, observations)
    whole = run(make(), problem, given)
    part = make()
    part.begin(problem, given, 0)
    for k in range(part.blocks):
        part.advance()
        state = part.state_dict()  # of every moment between two blocks
        part = make()
        part.begin(problem, given, 0)
        part.load_state_dict(state)
        assert k < whole.blocks
    t = uniform_times(problem, 51)
    if given is None:
        assert torch.equal(whole.solution().rows(t), part.solution().rows(t))
    else:
        one, two = whole.fit(), part.fit()
        assert one.estimates == two.estimates and torch.equal(one.solution.rows(t), two.solution.rows(t))


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    def train(seed: int) -> torch.Tensor:
        solver = run(Pinn(points=20, adam=30, bfgs=10, widths=[5]), problems.linear(1.0), None, seed)
        assert isinstance(solver, Pinn)
        return solver.flat.detach()

    assert torch.equal(train(3), train(3)) and not torch.equal(train(3), train(4))


def test_classical_takes_known_and_unknown_problems() -> None:
    unknown, observations = five_points()
    assert abs(run(Classical(starts=1), unknown, observations).fit().estimates["tau"] - 1) < 1e-6
    assert error(run(Classical(tolerance=1e-7), problems.linear(1.0)), problems.linear(1.0)) < 1e-6


def test_what_a_solver_cannot_do_is_one_line() -> None:
    unknown, observations = five_points()
    with pytest.raises(ConfigError, match="cannot estimate unknowns"):
        Steps().begin(unknown, observations)
    with pytest.raises(ConfigError, match="needs observations"):
        Pinn().begin(unknown)
    with pytest.raises(ConfigError, match="this problem has none"):
        Shooting().begin(problems.linear())
    with pytest.raises(ConfigError, match="continuous at the start"):
        Spectral().begin(problems.state_dep())
    with pytest.raises(ConfigError, match="method=magic is unknown"):
        fit(unknown, observations.times, observations.values, "magic")
    with pytest.raises(ConfigError, match="has no option"):
        fit(unknown, observations.times, observations.values, "shooting", speed=1)
    for bad in (
        {"points": 1},
        {"lr": 0.0},
        {"weights": "equal"},
        {"widths": []},
        {"floor": 2.0},
        {"fixed": {"a": 1.0}},
    ):
        with pytest.raises(ValueError):
            Pinn(**bad)  # type: ignore[arg-type]


def _installed(name: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.mark.parametrize(
    ("solver", "bound"),
    [
        pytest.param(JiTCDDE(101), 1e-8, marks=_installed("jitcdde")),
        pytest.param(DDEint(1001), 2e-5, marks=_installed("ddeint")),
        pytest.param(TorchDDE(101, step=0.1), 2e-7, marks=_installed("torchdde")),
    ],
    ids=["jitcdde", "ddeint", "torchdde"],
)
def test_published_packages_agree_on_the_linear_problem(solver: Any, bound: float) -> None:
    problem = problems.linear(1.0)
    run(solver, problem)
    assert float((solver.table[0] - problem.exact(solver.times)).abs().max()) < bound


@_installed("jitcdde")
@_installed("torchdde")
def test_published_packages_agree_on_a_system_with_parameters() -> None:
    problem = problems.sir()
    t = uniform_times(problem, 101)
    wanted = solve(problem, step=0.01).rows(t)
    for solver, bound in ((JiTCDDE(101), 1e-7), (TorchDDE(101, step=0.05), 1e-5)):
        assert float((run(solver, problem).table - wanted).abs().max()) < bound  # type: ignore[attr-defined]
