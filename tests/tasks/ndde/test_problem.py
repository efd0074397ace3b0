"""A problem as an object: the five lines, reference values, derivatives, bad input in one line each."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from decathlon.tasks.ndde import DDE, Unknown, UnknownHistory, fit, problems, solve
from decathlon.tasks.ndde.problems import REFERENCES, Reference
from decathlon.tasks.ndde.solution import Solution

_SOLVED: dict[str, Solution] = {}


def test_the_five_lines() -> None:
    times = torch.tensor([2.0, 4.0, 6.0, 8.0, 10.0])
    values = problems.linear(1.0).exact(times.double())
    # begin
    problem = DDE(
        lambda t, y, delayed: -delayed(0),
        delays=[Unknown(0.5)],
        history=lambda t: torch.ones_like(t),
        span=(0.0, 10.0),
    )
    found = fit(problem, times, values)
    exact = solve(problem.known(delays=[1.0]))
    # end
    assert found.verdict == "ok" and abs(found.delays[0] - 1) < 1e-8
    assert 0 <= found.standard_errors["tau"] < 1e-8
    assert torch.allclose(found.solution(times), values, atol=1e-8)
    assert torch.allclose(exact(times), values, atol=1e-8)
    tau = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    solve(problem.known(delays=[tau]))(torch.tensor(3.5)).backward()
    assert tau.grad is not None and float(tau.grad) != 0


def _name(reference: Reference) -> str:
    return f"{reference.problem}-{reference.options}-{reference.time:g}"


@pytest.mark.parametrize("reference", REFERENCES, ids=_name)
def test_reference_values(reference: Reference) -> None:
    key = f"{reference.problem}{reference.options}"
    if key not in _SOLVED:
        problem = getattr(problems, reference.problem)(**reference.options)
        _SOLVED[key] = solve(problem, tolerance=3e-9 if reference.problem == "hutchinson" else 1e-9)
    found = _SOLVED[key].rows(torch.tensor([reference.time], dtype=torch.float64))[:, 0]
    assert float(
        (found - torch.tensor(reference.values, dtype=torch.float64)).abs().max()
    ) < 0.75 * 10.0**-reference.digits + 3e-6 * (reference.problem == "logistic")


@pytest.mark.parametrize(
    ("name", "step"),
    [("linear", 0.01), ("oscillating", 0.002), ("neutral", 0.005), ("state_dep", 0.01), ("pantograph", 0.02)],
)
def test_closed_forms(name: str, step: float) -> None:
    problem = getattr(problems, name)()
    t = torch.linspace(*problem.span, 501, dtype=torch.float64)
    assert float((solve(problem, step=step)(t) - problem.exact(t)).abs().max()) < 1e-6


def test_stiff_problem_needs_a_small_step_and_a_large_one_says_so() -> None:
    problem = problems.stiff(100.0)
    t = torch.linspace(0, 3, 101, dtype=torch.float64)
    assert float((solve(problem, step=1 / 400)(t) - problem.exact(t)).abs().max()) < 1e-6
    with pytest.raises(ValueError, match="smaller step"):
        solve(problems.stiff(), step=0.1)


def test_the_epidemic_keeps_its_total() -> None:
    t = torch.linspace(0, 10, 301, dtype=torch.float64)
    assert float((solve(problems.sir(), step=0.01)(t).sum(dim=0) - 6).abs().max()) < 1e-10


def test_without_a_delay_the_linear_problem_is_the_exponential() -> None:
    problem = problems.linear(1e-6)
    assert abs(float(solve(problem, step=0.05)(1.0)) - math.exp(-1)) < 1e-5


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.int64, torch.tensor])
def test_delays_of_many_kinds(kind: Any) -> None:
    assert abs(float(solve(problems.linear(kind(1)), step=0.1)(2.0)) + 0.5) < 1e-6


def test_times_of_many_kinds_keep_their_shape() -> None:
    solution = solve(problems.sir(), step=0.1)
    assert solution(1.0).shape == (3,)
    assert solution(np.linspace(0, 1, 6).reshape(2, 3)).shape == (3, 2, 3)
    assert solution(torch.zeros(0)).shape == (3, 0)
    assert solution(torch.tensor([-5.0, 0.5], dtype=torch.float32)).shape == (3, 2)
    assert solution(0.1).tolist() == solution(np.float64(0.1)).tolist()


def _linear(**changes: Any) -> DDE:
    given: dict[str, Any] = {"delays": [1.0], "history": lambda t: torch.ones_like(t), "span": (0.0, 10.0)}
    return DDE(changes.pop("rhs", lambda t, y, delayed: -delayed(0)), **{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delays": [0.0]}, "tau = 0 must be above 0"),
        ({"delays": [-1.0]}, "must be above 0"),
        ({"delays": [float("nan")]}, "must be above 0"),
        ({"delays": [12.0]}, "at most the interval's length 10"),
        ({"delays": [Unknown(11.0)]}, "from 0 to the interval's length"),
        ({"delays": ["long"]}, "is no number"),
        ({"history": lambda t: torch.sqrt(t)}, "the history is not finite at t = -1"),
        ({"history": float("nan")}, "the history is not finite"),
        ({"history": None}, "neither a history nor an initial value"),
        ({"history": lambda t: torch.ones(3, len(t) + 1)}, "the history has the shape"),
        ({"span": (1.0, 1.0)}, "the end must come after the start"),
        ({"span": (0.0, float("inf"))}, "the end must come after the start"),
        ({"span": 3.0}, "must be two numbers"),
        ({"rhs": lambda t, y, delayed: torch.ones(2, len(t))}, "the right-hand side has the shape"),
        ({"rhs": lambda t, y, delayed: torch.stack([y, y])}, "the right-hand side has the shape"),
        ({"rhs": lambda t, y, delayed: None}, "returned a NoneType"),
        ({"rhs": lambda t, y, delayed: delayed(1)}, "reads delay 1; the problem has 1"),
        ({"rhs": lambda t, y, delayed: delayed(0, 3)}, "reads component 3"),
        ({"delays": [lambda t, y: torch.ones(2)]}, "shape"),
        ({"parameters": {"a b": 1.0}}, "no identifier"),
        ({"parameters": {"a": float("nan")}}, "not finite"),
    ],
)
def test_a_bad_problem_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message) as caught:
        _linear(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        ([2.0, 11.0], [1.0, 1.0], "the interval is 0 to 10"),
        ([-1.0, 2.0], [1.0, 1.0], "the interval is 0 to 10"),
        ([2.0, 3.0], [1.0], "must be"),
        ([2.0], [[1.0], [2.0]], "must be"),
        ([], [], "0 observed values for 1 unknowns"),
        ([2.0, 3.0], [float("nan")] * 2, "0 observed values for 1 unknowns"),
        ([2.0, 3.0], [float("inf"), 1.0], "finite"),
        ([float("nan"), 3.0], [0.0, 1.0], "interval"),
        ([1.0, 2.0], ["a", "b"], "no numbers"),
        ([1.0, 2.0], [[0.1], [0.2]], "must be"),
    ],
)
def test_bad_observations_are_one_line(times: Any, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        fit(_linear(delays=[Unknown(0.5)]), times, values)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_asked_says_so() -> None:
    problem = _linear(delays=[Unknown(0.5)])
    with pytest.raises(ValueError, match="tau unknown"):
        solve(problem)
    with pytest.raises(ValueError, match="nothing in the problem is unknown"):
        fit(_linear(), [1.0], [1.0])
    with pytest.raises(ValueError, match="2 delays given, the problem has 1"):
        problem.known(delays=[1.0, 2.0])
    with pytest.raises(ValueError, match="ends at t = 10"):
        solve(_linear(), step=0.1)(10.5)
    with pytest.raises(ValueError, match="no delay and no parameter"):
        problem.unknown(sigma=1.0)


def test_an_unknown_history_takes_its_values_at_chebyshev_points() -> None:
    history = UnknownHistory(reach=2.0, degree=3, start=0.0)
    t = torch.linspace(-2, 0, 9, dtype=torch.float64)
    nodes = (history.points - 1) * 1.0
    assert torch.allclose(history.evaluate(t, 0.0, nodes**3 - nodes)[0], t**3 - t, atol=1e-12)
