"""A right-hand side in torch as expressions of symengine: it is called once with symbols in place of tensors."""

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from decathlon.errors import ConfigError
from decathlon.tasks.ndde.problem import DDE

_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "multiply": operator.mul, "div": operator.truediv,
    "true_divide": operator.truediv, "pow": operator.pow, "__rsub__": lambda a, b: b - a, "rsub": lambda a, b: b - a,
    "__rdiv__": lambda a, b: b / a, "__rtruediv__": lambda a, b: b / a, "__rpow__": lambda a, b: b**a,
}  # fmt: skip
_ONE = ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "abs")


def _plain(value: Any) -> Any:
    if isinstance(value, Symbol):
        return value.expression
    return float(value) if isinstance(value, torch.Tensor) else value


class Symbol:
    """An expression that arithmetic and the common torch functions accept."""

    def __init__(self, expression: Any) -> None:
        self.expression = expression

    def __add__(self, other: Any) -> "Symbol":
        return Symbol(self.expression + _plain(other))

    def __radd__(self, other: Any) -> "Symbol":
        return Symbol(_plain(other) + self.expression)

    def __sub__(self, other: Any) -> "Symbol":
        return Symbol(self.expression - _plain(other))

    def __rsub__(self, other: Any) -> "Symbol":
        return Symbol(_plain(other) - self.expression)

    def __mul__(self, other: Any) -> "Symbol":
        return Symbol(self.expression * _plain(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Symbol":
        return Symbol(self.expression / _plain(other))

    def __rtruediv__(self, other: Any) -> "Symbol":
        return Symbol(_plain(other) / self.expression)

    def __pow__(self, other: Any) -> "Symbol":
        return Symbol(self.expression ** _plain(other))

    def __neg__(self) -> "Symbol":
        return Symbol(-self.expression)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import symengine

        name = func.__name__.strip("_") if func.__name__ not in _TWO else func.__name__
        if name == "stack":
            return list(args[0])
        if name in _ONE:
            return Symbol(getattr(symengine, "Abs" if name == "abs" else name)(_plain(args[0])))
        if name in _TWO:
            return Symbol(_TWO[name](_plain(args[0]), _plain(args[1])))
        raise ConfigError(f"jitcdde: the right-hand side calls torch.{func.__name__}, which has no symbolic form here")


def symbolic_rhs(
    problem: DDE, p: SimpleNamespace, t: Symbol, y: list[Symbol], delayed: list[list[Symbol]]
) -> list[Symbol]:
    """The right-hand side's rows for symbols of time, values (n) and delayed values (delays x n)."""

    def read(i: int, j: int | None = None) -> Any:
        if j is not None:
            return delayed[i][j]
        return delayed[i][0] if problem.scalar else delayed[i]

    shown: Any = y[0] if problem.scalar else y
    arguments = (t, shown, read, p) if problem.takes_parameters else (t, shown, read)
    found = problem.rhs(*arguments)
    return list(found) if isinstance(found, (list, tuple)) else [found]
