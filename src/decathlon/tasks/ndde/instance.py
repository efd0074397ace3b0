"""A problem with a number for everything, and how it calls what the user has written."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decathlon.equations.steps import Lag, Read
from decathlon.tasks.ndde.unknown import Unknown, UnknownHistory

if TYPE_CHECKING:
    from decathlon.tasks.ndde.problem import DDE


@dataclass
class Instance:
    """A problem with a number for everything: what solvers see. Values are (n, N) here, also for one unknown.

    Attributes:
        lags: scalar tensors, or functions (t (N,), y (n, N)) -> (N,).
        p: the parameters.
        coefficients: of an unknown history, or None.
    """

    problem: "DDE"
    delays: list[Any]
    p: SimpleNamespace
    coefficients: Tensor | None

    @property
    def lags(self) -> list[Lag]:
        return [self._lag(delay) if callable(delay) else delay for delay in self.delays]

    def _lag(self, delay: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
        def lag(t: Tensor, y: Tensor) -> Tensor:
            value = torch.as_tensor(call(delay, 2, t, self.shown(y), p=self.p), dtype=torch.float64)
            if value.shape not in ((), t.shape):
                raise ValueError(
                    f"a delay has the shape {tuple(value.shape)} at {len(t)} times, it must be ({len(t)},)"
                )
            return value.expand(t.shape)

        return lag

    def shown(self, y: Tensor) -> Tensor:
        """Values as the user sees them."""
        return y[0] if self.problem.scalar else y

    def rows(self, value: Any, count: int, what: str) -> Tensor:
        """What a user's function returned as (n, count)."""
        n = self.problem.size
        try:
            if isinstance(value, (list, tuple)):
                value = torch.stack([torch.as_tensor(v, dtype=torch.float64).expand(count) for v in value])
            found = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, RuntimeError):
            raise ValueError(f"{what} returned a {type(value).__name__} that is no tensor of {n} x {count}") from None
        if found.ndim == 0 and n == 1:
            found = found.expand(count)
        if found.ndim == 1 and n == 1 and len(found) == count:
            found = found[None]
        if found.shape != (n, count):
            wanted = (count,) if self.problem.scalar else (n, count)
            raise ValueError(f"{what} has the shape {tuple(found.shape)} at {count} times, it must be {wanted}")
        return found

    def past(self, t: Tensor) -> Tensor:
        """The history (n, N) at times (N,)."""
        history = self.problem.history
        if isinstance(history, UnknownHistory):
            assert self.coefficients is not None
            return history.evaluate(t, self.problem.span[0], self.coefficients)
        if isinstance(history, Unknown):
            assert self.coefficients is not None
            return self.coefficients.reshape(-1, 1).expand(-1, len(t))
        if history is None:
            return self.initial[:, None].expand(-1, len(t))
        if callable(history):
            return self.rows(call(history, 1, t, p=self.p), len(t), "the history")
        return torch.as_tensor(history, dtype=torch.float64).reshape(-1, 1).expand(-1, len(t))

    @property
    def initial(self) -> Tensor:
        """y at the start, (n,)."""
        if self.problem.initial is not None:
            return torch.as_tensor(self.problem.initial, dtype=torch.float64).reshape(-1)
        return self.past(torch.tensor([self.problem.span[0]], dtype=torch.float64))[:, 0]

    def derivative(
        self, t: Tensor, y: Tensor, read: Read, seen: set[tuple[int, int | None, bool]] | None = None
    ) -> Tensor:
        """The right-hand side: (N,), (n, N), read -> (n, N)."""
        delayed = Delayed(self.problem, read, seen)
        if self.problem.takes_parameters:
            value = self.problem.rhs(t, self.shown(y), delayed, self.p)
        else:
            value = self.problem.rhs(t, self.shown(y), delayed)
        if isinstance(value, Tensor) and value.shape == y.shape and value.dtype == torch.float64:
            return value
        return self.rows(value, len(t), "the right-hand side")


class Delayed:
    """What a right-hand side calls to read delayed values."""

    def __init__(self, problem: "DDE", read: Read, seen: set[tuple[int, int | None, bool]] | None) -> None:
        self._problem, self._read, self._seen = problem, read, seen

    def __call__(self, i: int, j: int | None = None) -> Tensor:
        """y(t - delay_i), or its component j."""
        return self._get(i, j, False)

    def slope(self, i: int, j: int | None = None) -> Tensor:
        """y'(t - delay_i), or its component j."""
        return self._get(i, j, True)

    def _get(self, i: int, j: int | None, derivative: bool) -> Tensor:
        if self._seen is not None:
            if not 0 <= i < len(self._problem.delays):
                raise ValueError(f"the right-hand side reads delay {i}; the problem has {len(self._problem.delays)}")
            if j is not None and not 0 <= j < self._problem.size:
                raise ValueError(f"the right-hand side reads component {j}; the problem has {self._problem.size}")
            self._seen.add((i, j, derivative))
        elif (i, j, derivative) not in self._problem.reads:
            raise ValueError(f"the right-hand side reads delay {i} now and did not when the problem was made")
        value = self._read(i, True) if derivative else self._read(i)
        if j is not None:
            return value[j]
        return value[0] if self._problem.scalar else value


def call(function: Callable[..., Any], needed: int, *arguments: Any, p: SimpleNamespace) -> Any:
    """Call a user's function, with the parameters as last argument if it takes one more than it needs."""
    return function(*arguments, p) if takes(function, needed + 1) else function(*arguments)


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function has so many positional arguments without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters) >= count
