"""Published packages on the same problems, for comparison: jitcdde, ddeint, torchdde (extra ``peers``)."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.errors import ConfigError
from decathlon.tasks.ndde.instance import Instance
from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solution import Solution, uniform_times
from decathlon.tasks.ndde.solvers.base import Solver


def package(name: str) -> Any:
    """An optional package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"{name} is not installed; pip install 'decathlon[peers]'") from None


class _Peer(Solver):
    """A package that gives values at the output times; between them the solution is interpolated linearly.

    Args:
        outputs: how many output times, equidistant.
    """

    name = ""

    def __init__(self, outputs: int = 1001) -> None:
        if outputs < 2:
            raise ValueError(f"outputs={outputs} must be at least 2")
        self.outputs = int(outputs)
        self.table = torch.zeros(0)

    def begin(self, problem: DDE, observations: Observations | None = None, seed: int = 0) -> None:
        super().begin(problem, observations, seed)
        self.times = uniform_times(problem, self.outputs)

    def accept(self, problem: DDE) -> None:
        super().accept(problem)
        package(self.name)
        if any(callable(delay) for delay in problem.delays) or problem.neutral:
            raise ConfigError(
                f"{self.name} is run on constant delays without delayed slopes; choose steps, spectral, pinn"
            )
        if problem.initial is not None:
            raise ConfigError(f"{self.name} is run on problems that start from their history; choose steps")

    def advance(self) -> dict[str, float]:
        self.table = self.run(self.problem.instance(), self.times)
        if not bool(torch.isfinite(self.table).all()):
            raise ValueError(f"{self.name}: the solution is not finite")
        return {}

    def run(self, instance: Instance, times: Tensor) -> Tensor:
        """Values (n, outputs)."""
        raise NotImplementedError

    def solution(self) -> Solution:
        x, rows = self.times.numpy(), self.table.numpy()

        def values(t: Tensor) -> Tensor:
            return torch.from_numpy(np.stack([np.interp(t.numpy(), x, row) for row in rows]))

        return Solution(self.problem, values, self.problem.instance().past)

    def state_dict(self) -> dict[str, Any]:
        return {"table": self.table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table = state["table"]


class DDEint(_Peer):
    """``ddeint``: SciPy's ``ode`` from output time to output time, linear interpolation of the past."""

    name = "ddeint"

    def run(self, instance: Instance, times: Tensor) -> Tensor:
        ddeint = package("ddeint").ddeint
        lags, n = [float(lag) for lag in instance.lags if isinstance(lag, Tensor)], instance.problem.size

        def column(value: Any) -> Tensor:
            return torch.as_tensor(np.asarray(value, dtype=np.float64)).reshape(-1, 1)

        def model(y: Callable[[float], Any], t: float) -> np.ndarray:
            now = torch.tensor([t], dtype=torch.float64)
            found = instance.derivative(now, column(y(t)), lambda i: column(y(t - lags[i])))[:, 0].numpy()
            return found if n > 1 else found[0]

        def history(t: float) -> np.ndarray:
            found = instance.past(torch.tensor([float(t)], dtype=torch.float64))[:, 0].numpy()
            return found if n > 1 else found[0]

        found = ddeint(model, history, times.numpy())
        return torch.from_numpy(np.asarray(found, dtype=np.float64).reshape(len(times), -1).T.copy())


class TorchDDE(_Peer):
    """``torchdde``: RK4 with a constant step.

    Args:
        step: its step; null: the distance of the outputs.
    """

    name = "torchdde"

    def __init__(self, outputs: int = 1001, step: float | None = None) -> None:
        super().__init__(outputs)
        if step is not None and not step > 0:
            raise ValueError(f"step={step} must be positive")
        self.step = step

    def run(self, instance: Instance, times: Tensor) -> Tensor:
        torchdde = package("torchdde")
        lags = torch.stack([lag for lag in instance.lags if isinstance(lag, Tensor)]).detach()
        step = torch.tensor(self.step or float(times[1] - times[0]), dtype=torch.float64)

        def func(t: Tensor, y: Tensor, args: Any, *, history: Any) -> Tensor:
            return instance.derivative(t.reshape(1), y.t(), lambda i: history[i].t()).t()

        def past(t: Tensor) -> Tensor:
            return instance.past(torch.as_tensor(t, dtype=torch.float64).reshape(1)).t()

        most = 2 * math.ceil(float(times[-1] - times[0]) / float(step)) + 100
        with torch.no_grad():
            found = torchdde.integrate(
                func, torchdde.RK4(), times[0], times[-1], times, past, None, dt0=step, delays=lags,
                discretize_then_optimize=True, max_steps=most,
            )  # fmt: skip
        return found[0].t().contiguous()


class JiTCDDE(_Peer):
    """``jitcdde`` with lambdas: adaptive Bogacki-Shampine, stepping on the discontinuities first.

    Args:
        rtol, atol: its tolerances.
    """

    name = "jitcdde"

    def __init__(self, outputs: int = 1001, rtol: float = 1e-9, atol: float = 1e-10) -> None:
        super().__init__(outputs)
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"rtol={rtol} and atol={atol} must be positive")
        self.rtol, self.atol = float(rtol), float(atol)

    def accept(self, problem: DDE) -> None:
        super().accept(problem)
        if problem.span[0] != 0:
            raise ConfigError("jitcdde is run on problems that start at 0; choose steps")

    def run(self, instance: Instance, times: Tensor) -> Tensor:
        return self.integrate(self.prepare(instance), times)

    def prepare(self, instance: Instance) -> Any:
        """The equation in jitcdde's symbols, with lambdas made, at its start."""
        jitcdde = package("jitcdde")
        problem, n = instance.problem, instance.problem.size
        lags = [float(lag) for lag in instance.lags if isinstance(lag, Tensor)]
        from decathlon.tasks.ndde.solvers.symbols import Symbol, symbolic_rhs

        t = jitcdde.t
        rows = symbolic_rhs(
            problem, instance.p, Symbol(t), [Symbol(jitcdde.y(j)) for j in range(n)],
            [[Symbol(jitcdde.y(j, t - lag)) for j in range(n)] for lag in lags],
        )  # fmt: skip
        made = jitcdde.jitcdde([row.expression for row in rows], n=n, verbose=False)

        def past(time: float) -> np.ndarray:
            return instance.past(torch.tensor([float(time)], dtype=torch.float64))[:, 0].numpy()

        varied = instance.past(torch.linspace(-max(lags), 0, 9, dtype=torch.float64))
        if float((varied - varied[:, :1]).abs().max()) == 0:
            made.constant_past(past(0.0), time=0.0)
        else:
            made.past_from_function(past)
        made.generate_lambdas()
        made.set_integration_parameters(rtol=self.rtol, atol=self.atol, first_step=1e-3, max_step=10.0)
        return made

    def integrate(self, made: Any, times: Tensor) -> Tensor:
        """Values (n, outputs)."""
        made._initiate()
        made.DDE.forget = lambda delay: (
            None
        )  # it would drop what is older than the longest delay, before it is read here
        made.step_on_discontinuities()
        grid = times.numpy()
        early = grid <= made.t
        found = np.zeros((made.n, len(grid)))
        found[:, early] = _spline(made.get_state(), grid[early])
        for k in np.flatnonzero(~early):
            found[:, k] = made.integrate(grid[k])
        return torch.from_numpy(found)


def _spline(anchors: Any, times: np.ndarray) -> np.ndarray:
    """Values of jitcdde's cubic Hermite anchors, (n, M)."""
    return np.stack([np.asarray(anchors.get_state(time)) for time in times], axis=1)
