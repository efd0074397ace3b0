"""BFGS with rank-two updates and Levenberg-Marquardt against SciPy and closed forms."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, rosen, rosen_der

from decathlon.equations.line_search import exact_on_quadratics, strong_wolfe
from decathlon.equations.second_order import BFGS, LevenbergMarquardt


def quadratic(d: int, condition: float = 100.0) -> tuple[np.ndarray, Any]:
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(d, d)))[0]
    matrix = (basis * np.geomspace(1, condition, d)) @ basis.T
    return matrix, lambda x: (0.5 * float(x @ matrix @ x), matrix @ x)


def test_the_update_is_that_of_scipy() -> None:
    _, function = quadratic(10, 30.0)
    start, path = np.ones(10), [np.ones(10)]
    result = minimize(function, start, jac=True, method="BFGS", callback=lambda x: path.append(x.copy()),
                      options={"maxiter": 9, "gtol": 0})  # fmt: skip  # one that converges leaves its last step out
    ours = BFGS(start)
    for before, after in pairwise(path):
        ours.update(after - before, function(after)[1] - function(before)[1])
    assert len(path) == 10
    assert np.abs(ours.inverse_hessian() - result.hess_inv).max() < 1e-8


@pytest.mark.parametrize("d", [1, 2, 10, 30])
def test_a_quadratic_takes_as_many_steps_as_it_has_dimensions(d: int) -> None:
    matrix, function = quadratic(d)
    ours = BFGS(np.ones(d), search=exact_on_quadratics)
    for _ in range(d + 2):
        ours.step(function)
    assert np.abs(ours.x).max() < 1e-6
    assert d == 1 or np.abs(ours.inverse_hessian() - np.linalg.inv(matrix)).max() < 1e-6


def test_it_finds_the_minimum_of_rosenbrocks_function() -> None:
    ours = BFGS(np.full(8, -1.2))
    while ours.iterations < 300 and ours.step(lambda x: (float(rosen(x)), rosen_der(x))):
        pass
    assert np.allclose(ours.x, 1, atol=1e-6)


def test_a_point_of_the_line_search_is_lower_and_flatter() -> None:
    x, direction = np.array([-1.2, 1.0]), -rosen_der(np.array([-1.2, 1.0]))
    value, gradient = float(rosen(x)), rosen_der(x)
    point = strong_wolfe(lambda x: (float(rosen(x)), rosen_der(x)), x, direction, value, gradient, 1.0)
    assert point is not None
    slope = float(gradient @ direction)
    assert point.value <= value + 1e-4 * point.length * slope
    assert abs(point.slope) <= 0.9 * abs(slope)
    assert strong_wolfe(lambda x: (float(rosen(x)), rosen_der(x)), x, -direction, value, gradient, 1.0) is None


def test_a_function_that_is_not_finite_somewhere_is_survived() -> None:
    def barrier(x: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return float(x.sum() - np.log(x).sum()), 1 - 1 / x

    ours = BFGS(np.array([0.05, 3.0]))
    while ours.iterations < 50 and ours.step(barrier):
        pass
    assert np.allclose(ours.x, 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["bfgs", "lm"])
def test_a_saved_state_goes_on_to_the_same_bits(kind: str) -> None:
    def residuals(x: np.ndarray) -> np.ndarray:
        return np.concatenate([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])

    def jacobian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = len(x)
        j = np.zeros((2 * n - 2, n))
        for k in range(n - 1):
            j[k, k + 1], j[k, k], j[n - 1 + k, k] = 10, -20 * x[k], -1
        return residuals(x), j

    def step(optimiser: Any) -> None:
        if kind == "bfgs":
            optimiser.step(lambda x: (float(rosen(x)), rosen_der(x)))
        else:
            optimiser.step(residuals, jacobian)

    def make() -> Any:
        return BFGS(np.full(5, -1.2)) if kind == "bfgs" else LevenbergMarquardt(np.full(5, -1.2))

    whole, part = make(), make()
    for k in range(12):
        step(whole)
        step(part)
        if k == 5:
            state = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in part.state_dict().items()}
            part = make()
            part.load_state_dict(state)
    assert (whole.x == part.x).all() and whole.value == part.value


def test_levenberg_marquardt_solves_a_nonlinear_least_squares_problem() -> None:
    t = np.linspace(0, 1, 20)
    target = 2 * np.exp(-3 * t)
    ours = LevenbergMarquardt(np.array([1.0, -1.0]))

    def jacobian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        e = np.exp(x[1] * t)
        return x[0] * e - target, np.stack([e, x[0] * t * e], axis=1)

    while ours.iterations < 50 and ours.step(lambda x: jacobian(x)[0], jacobian):
        pass
    assert np.allclose(ours.x, [2, -3], atol=1e-8) and ours.ended
