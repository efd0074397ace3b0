"""Speed and accuracy of the delay-equation task against plain code and published packages, as ratios in one run.

    python scripts/bench/ndde.py [--repeats 5] [--recipe] [--no-peers]

One thread. Ways are timed in turn and medians compared. ``--recipe`` also trains the paper's network on problem A
(half a minute), which ``windows`` is compared with.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from decathlon.equations.second_order import BFGS
from decathlon.tasks.ndde import problems, solve
from decathlon.tasks.ndde.solution import relative_error, uniform_times
from decathlon.tasks.ndde.solvers import DDEint, JiTCDDE, Pinn, Solver, TorchDDE, Windows

Row = dict[str, Any]


def row(what: str, value: float, target: float, better: str, detail: str = "") -> Row:
    """One result: whether ``value`` is at least (``better=higher``) or at most its target."""
    met = value >= target if better == "higher" else value <= target
    return {"what": what, "value": value, "target": target, "better": better, "met": met, "detail": detail}


def medians(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, the ways taking turns after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def plain_step(count: int) -> Callable[[], Tensor]:
    """One Adam step on problem A as one would write it: ``nn.Sequential``, ``create_graph``, ``torch.where``."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in ((1, 20), (20, 40), (40, 20)):
        layers += [nn.Linear(a, b), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Linear(20, 1)).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    t = (10 * torch.rand(count, 1, dtype=torch.float64)).requires_grad_()
    start = torch.zeros(1, 1, dtype=torch.float64)

    def step() -> Tensor:
        u = net(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        delayed = torch.where(t > 1.0, net(t - 1.0), torch.ones_like(t))
        losses = torch.stack([(slope + delayed).square().mean(), (net(start) - 1).square().mean()])
        objective = losses.square().sum() / losses.sum()
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
        return objective.detach()

    return step


def floor_step(count: int) -> Callable[[], None]:
    """The matrix products and exponentials of that step and nothing else, into memory that is there: its floor.

    The values at ``count`` times and at their delayed ones, slopes at the former, and both ways back.
    """
    widths = (20, 40, 20)
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    exponentials: list[Tensor] = []
    for below, above in pairwise(widths):
        weight = torch.randn(above, below, dtype=torch.float64)
        for columns in (2 * count, count):  # values, slopes
            h, g = (torch.randn(rows, columns, dtype=torch.float64) for rows in (below, above))
            for left, right in ((weight, h), (weight.t(), g), (g, h.t())):
                products.append((left, right, left @ right))
    for width in widths:
        exponentials.append(torch.zeros(width, 2 * count, dtype=torch.float64))
    results = [torch.empty_like(values) for values in exponentials]

    def step() -> None:
        for left, right, result in products:
            torch.mm(left, right, out=result)
        for values, result in zip(exponentials, results):
            torch.exp(values, out=result)

    return step


def bench_adam(repeats: int) -> list[Row]:
    """The step of Adam against the plain code, at 500 and 5,000 collocation times."""
    rows = []
    for count, inner in ((500, 20), (5000, 5)):
        ours = Pinn(points=count)
        ours.begin(problems.linear(1.0))
        plain = plain_step(count)

        def several(step: Callable[[], Any], times: int) -> None:
            for _ in range(times):
                step()

        ways: dict[str, Callable[[], Any]] = {
            "ours": partial(several, ours._adam_step, inner),
            "plain": partial(several, plain, inner),
            "floor": partial(several, floor_step(count), inner),
        }
        found = medians(ways, 3 * repeats)
        detail = f"{1e3 * found['ours'] / inner:.2f} ms against {1e3 * found['plain'] / inner:.2f} ms; products and "
        detail += f"exponentials alone {1e3 * found['floor'] / inner:.2f} ms"
        rows.append(
            row(f"Adam step at N_f {count}, times faster", found["plain"] / found["ours"], 2.0, "higher", detail)
        )
    return rows


def bench_bfgs(repeats: int) -> list[Row]:
    """An iteration of BFGS against SciPy's, 1,721 unknowns and a function that costs nothing."""
    size, each = 1721, 5
    scales = np.linspace(1, 100, size)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.5 * float(scales @ x**2), scales * x

    def ours() -> None:
        optimiser = BFGS(np.ones(size))
        for _ in range(each):
            optimiser.step(function)

    def theirs() -> None:
        minimize(function, np.ones(size), jac=True, method="BFGS", options={"maxiter": each, "gtol": 1e-300})

    found = medians({"ours": ours, "scipy": theirs}, min(repeats, 3))
    detail = f"{1e3 * found['ours'] / each:.1f} ms against {1e3 * found['scipy'] / each:.0f} ms"
    return [
        row("BFGS iteration at 1,721 unknowns, times faster", found["scipy"] / found["ours"], 30.0, "higher", detail)
    ]


def exact_of(times: Tensor) -> Tensor:
    """The closed form of problem A with the delay 1."""
    exact = problems.linear(1.0).exact
    assert exact is not None
    return exact(times)


def error_of(values: Tensor, times: Tensor) -> float:
    """Largest error on problem A with the delay 1."""
    return float((values - exact_of(times)).abs().max())


def bench_steps(repeats: int) -> list[Row]:
    """The method of steps on problem A against ddeint, torchdde and jitcdde."""
    problem, t = problems.linear(1.0), uniform_times(problems.linear(1.0))

    def ours(count: int) -> Tensor:
        with torch.no_grad():
            return solve(problem, step=10 / count)(t)

    def peer(solver: Any) -> Tensor:
        solver.begin(problem)
        solver.advance()
        return solver.table[0]

    rows = []
    ddeint, torchdde, jitcdde = DDEint(1001), TorchDDE(101, step=0.1), JiTCDDE(1001)
    found = medians({"ours": lambda: ours(1000), "ddeint": lambda: peer(ddeint)}, repeats)
    ratio = error_of(ours(1000), t) / error_of(peer(ddeint), ddeint.times)
    detail = f"{1e3 * found['ours']:.0f} ms against {1e3 * found['ddeint']:.0f} ms"
    rows.append(row("steps at step 0.01: share of ddeint's error (1,001 points)", ratio, 1e-2, "lower", detail))
    rows.append(
        row("steps at step 0.01: share of ddeint's time", found["ours"] / found["ddeint"], 1.0, "lower", detail)
    )
    found = medians({"ours": lambda: ours(100), "torchdde": lambda: peer(torchdde)}, repeats)
    table = peer(torchdde)
    mine = solve(problem, step=0.1)(torchdde.times)
    ratio = error_of(mine, torchdde.times) / error_of(table, torchdde.times)
    detail = f"{1e3 * found['ours']:.1f} ms against {1e3 * found['torchdde']:.0f} ms"
    rows.append(row("steps at step 0.1: share of torchdde RK4's error", ratio, 1.0, "lower", detail))
    rows.append(
        row("steps at step 0.1: share of torchdde RK4's time", found["ours"] / found["torchdde"], 0.5, "lower", detail)
    )
    wanted = error_of(peer(jitcdde), jitcdde.times)
    count = 100
    while error_of(ours(count), t) > wanted:
        count *= 2
    instance = problem.instance()
    # Only the integration counts; jitcdde's symbols are translated before.
    times: dict[str, list[float]] = {"ours": [], "jitcdde": []}
    for _ in range(repeats):
        made = jitcdde.prepare(instance)
        start = time.perf_counter()
        jitcdde.integrate(made, jitcdde.times)
        times["jitcdde"].append(time.perf_counter() - start)
        start = time.perf_counter()
        ours(count)
        times["ours"].append(time.perf_counter() - start)
    ratio = statistics.median(times["ours"]) / statistics.median(times["jitcdde"])
    detail = f"{count} steps, jitcdde's error {wanted:.1e}"
    rows.append(
        row("steps at the error of jitcdde (rtol 1e-9, lambdas): share of its time", ratio, 3.0, "lower", detail)
    )
    return rows


def bench_derivative() -> list[Row]:
    """dJ/dtau of the method of steps against the closed form's."""
    times = torch.tensor([2.0, 4.0, 6.0, 8.0, 10.0], dtype=torch.float64)
    tau = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(solve(problems.linear(tau), step=0.01)(times).square().sum(), tau)
    slope = torch.zeros_like(times)
    for k in range(2, 12):
        base = (times - (k - 1)).clamp(min=0)
        slope = slope - (k - 1) * (-1) ** k * base ** (k - 1) / float(math.factorial(k - 1))
    wanted = (2 * exact_of(times) * slope).sum()
    return [row("dJ/dtau of steps, relative error", abs(float(found / wanted) - 1), 1e-6, "lower")]


def bench_windows(repeats: int, recipe: bool) -> list[Row]:
    """Random features by windows on problem A, and with ``recipe`` the paper's network beside them."""
    problem = problems.linear(1.0)
    t = uniform_times(problem)
    exact = exact_of(t)[None]

    def run(solver: Solver) -> float:
        solver.begin(problem)
        for _ in range(solver.blocks):
            solver.advance()
        return float(relative_error(solver.solution().rows(t).detach(), exact))

    seconds = medians({"windows": lambda: run(Windows())}, repeats)["windows"]
    mine = run(Windows())
    if not recipe:
        return [row("windows on A: relative L2 error", mine, 1e-6, "lower", f"{1e3 * seconds:.0f} ms")]
    start = time.perf_counter()
    theirs = run(Pinn(points=500, adam=2000, bfgs=1000))
    training = time.perf_counter() - start
    detail = f"{mine:.1e} in {1e3 * seconds:.0f} ms against {theirs:.1e} in {training:.1f} s"
    return [
        row("windows on A, times more accurate than the paper's recipe", theirs / mine, 1e3, "higher", detail),
        row("windows on A, share of the recipe's time", seconds / training, 0.01, "lower", detail),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="delay equations against plain code and published packages")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--recipe", action="store_true", help="train the paper's network too")
    parser.add_argument("--no-peers", action="store_true", help="without ddeint, torchdde, jitcdde")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = bench_adam(options.repeats) + bench_bfgs(options.repeats) + bench_derivative()
    rows += bench_windows(options.repeats, options.recipe)
    if not options.no_peers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the peers': how jitcdde translates, what ddeint extrapolates
            rows += bench_steps(options.repeats)
    for found in rows:
        sign = ">=" if found["better"] == "higher" else "<="
        verdict = "met" if found["met"] else "NOT MET"
        print(f"{found['what']:70s} {found['value']:10.3g}  ({sign} {found['target']:g}: {verdict})  {found['detail']}")


if __name__ == "__main__":
    main()
