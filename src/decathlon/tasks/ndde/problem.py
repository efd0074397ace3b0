"""A delay differential equation as a Python object: right-hand side, delays, history, parameters, interval."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.ndde.instance import Instance, call, takes
from decathlon.tasks.ndde.unknown import Slot, Unknown, UnknownHistory

DelayLike = Any  # a number, a scalar tensor, Unknown, or a function (t, y) -> delay


class DDE:
    """``y'(t) = F(t, y(t), y(t - delay_0), ...; p)`` on an interval, with ``y = history`` before it.

    A problem of one unknown has no axis for components: times, values and slopes are (N,). A system of n unknowns has
    values (n, N): ``S, I, R = y``. All is float64 on the CPU.

    Args:
        rhs: ``(t, y, delayed)`` or ``(t, y, delayed, p)`` -> y'. ``delayed(i)`` is y(t - delay_i), ``delayed(i, j)``
            its component j, (N,), and ``delayed.slope(i)`` is y'(t - delay_i) (neutral equations). ``p.name`` is a
            parameter. A system returns (n, N) or a sequence of n rows.
        delays: for each a number, a scalar tensor (the solution is differentiable by it), an ``Unknown``, or a function
            ``(t, y)`` or ``(t, y, p)`` -> delay at the time t, (N,).
        history: y before the start: a number, a sequence of n numbers, a function ``t`` or ``(t, p)`` -> y, ``Unknown``
            (a constant to be found), or ``UnknownHistory``. None: nothing is read before the start.
        span: start and end.
        parameters: name -> a number, a scalar tensor, or ``Unknown``.
        initial: y at the start, where it is not the history's value there.
        exact: the solution ``t`` -> y, if it is known.
        names: of the unknowns.

    Raises:
        ValueError: in one line, what is wrong: a delay that is not positive or is longer than the interval, a history
            that is not finite, a right-hand side of the wrong shape, an empty interval.
    """

    def __init__(
        self,
        rhs: Callable[..., Any],
        delays: Sequence[DelayLike] | DelayLike = (),
        history: Any = None,
        span: tuple[float, float] = (0.0, 1.0),
        parameters: Mapping[str, Any] | None = None,
        initial: Any = None,
        exact: Callable[[Tensor], Any] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.rhs, self.history, self.initial, self.exact = rhs, history, initial, exact
        self.delays: list[Any] = list(delays) if isinstance(delays, (list, tuple)) else [delays]
        self.parameters: dict[str, Any] = dict(parameters or {})
        self.takes_parameters = takes(rhs, 4)
        self.span = _interval(span)
        self._check_values()
        self.scalar, self.size = self._shape()
        self.names = list(names) if names else (["y"] if self.size == 1 else [f"y{j + 1}" for j in range(self.size)])
        if len(self.names) != self.size:
            raise ValueError(f"{len(self.names)} names for {self.size} unknowns")
        self.reads, self.neutral = self._probe()

    # What is known and what is not

    @property
    def delay_names(self) -> list[str]:
        """``tau``, or ``tau1``, ``tau2``, ... where there are several."""
        return ["tau"] if len(self.delays) == 1 else [f"tau{i + 1}" for i in range(len(self.delays))]

    @property
    def slots(self) -> list[Slot]:
        """The unknown scalars in their order: delays, parameters, coefficients of the history."""
        found = [Slot(name, d, True) for name, d in zip(self.delay_names, self.delays) if isinstance(d, Unknown)]
        found += [Slot(name, p, False) for name, p in self.parameters.items() if isinstance(p, Unknown)]
        if isinstance(self.history, Unknown):
            found.append(Slot("history", self.history, False))
        elif isinstance(self.history, UnknownHistory):
            found += [Slot(f"history{k}", Unknown(start), False) for k, start in enumerate(self.history.starts)]
        return found

    def components(self, i: int, derivative: bool) -> set[int]:
        """Which components the right-hand side reads at delay i."""
        named = {j for number, j, slope in self.reads if number == i and slope == derivative}
        return set(range(self.size)) if None in named else {j for j in named if j is not None}

    def at(self, values: Tensor) -> Instance:
        """The problem with its unknowns replaced by ``values``, in the order of ``slots``.

        Args:
            values: (m,), or (m, N) where each of N points of time is to have values of its own.
        """
        given = iter(values)
        delays = [next(given) if isinstance(d, Unknown) else d for d in self.delays]
        named = {name: next(given) if isinstance(p, Unknown) else p for name, p in self.parameters.items()}
        p = SimpleNamespace(**{name: _one_or_many(value, values) for name, value in named.items()})
        lags = [d if callable(d) else _one_or_many(d, values) for d in delays]
        rest = list(given)
        return Instance(self, lags, p, torch.stack(rest) if rest else None)

    @property
    def history_depends(self) -> bool:
        """Whether the history depends on unknowns."""
        if isinstance(self.history, Unknown | UnknownHistory):
            return True
        named = any(isinstance(p, Unknown) for p in self.parameters.values())
        return named and callable(self.history) and takes(self.history, 2)

    def instance(self) -> Instance:
        """The problem as it is, if nothing in it is unknown.

        Raises:
            ValueError: something is; the message says what.
        """
        missing = [slot.name for slot in self.slots]
        if missing:
            raise ValueError(
                f"{', '.join(missing)} unknown: give values by problem.known(...), or estimate them by fit"
            )
        return self.at(torch.zeros(0, dtype=torch.float64))

    def known(
        self,
        delays: Sequence[Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        history: Any = None,
        span: tuple[float, float] | None = None,
    ) -> "DDE":
        """This problem with other delays (all of them), parameters (some of them), history or interval."""
        return self._with(delays, parameters, history, span)

    def unknown(self, **start: Any) -> "DDE":
        """This problem with the delays and parameters that are named (``tau=0.5``, ``a=Unknown(0, low=0)``) unknown.

        Raises:
            ValueError: for a name that is none of its.
        """
        delays, parameters = list(self.delays), dict(self.parameters)
        for name, value in start.items():
            value = value if isinstance(value, Unknown) else Unknown(value)
            if name in self.delay_names:
                delays[self.delay_names.index(name)] = value
            elif name in parameters:
                parameters[name] = value
            else:
                raise ValueError(
                    f"{name} is no delay and no parameter; choose {', '.join([*self.delay_names, *parameters])}"
                )
        return self._with(delays, parameters, None, None)

    def _with(self, delays: Any, parameters: Any, history: Any, span: Any) -> "DDE":
        if delays is not None and len(delays) != len(self.delays):
            raise ValueError(f"{len(delays)} delays given, the problem has {len(self.delays)}")
        for name in parameters or {}:
            if name not in self.parameters:
                raise ValueError(f"{name} is no parameter; choose {', '.join(self.parameters) or 'none'}")
        made = copy.copy(self)
        made.delays = list(self.delays if delays is None else delays)
        made.parameters = {**self.parameters, **(parameters or {})}
        made.history = self.history if history is None else history
        made.span = self.span if span is None else _interval(span)
        made._check_values()
        made.scalar, made.size = made._shape()
        made.reads, made.neutral = made._probe()
        return made

    # Checks

    def _check_values(self) -> None:
        length = self.span[1] - self.span[0]
        for name, delay in zip(self.delay_names, self.delays):
            if isinstance(delay, Unknown):
                if not 0 <= delay.start <= length:
                    raise ValueError(
                        f"{name} starts at {delay.start:g}: it must be from 0 to the interval's length {length:g}"
                    )
            elif not callable(delay):
                value = float(_number(delay).detach())
                if not 0 < value <= length:
                    raise ValueError(f"{name} = {value:g} must be above 0 and at most the interval's length {length:g}")
        for name, value in self.parameters.items():
            if not isinstance(value, Unknown) and not math.isfinite(float(_number(value).detach())):
                raise ValueError(f"the parameter {name} = {value} is not finite")
            if not name.isidentifier():
                raise ValueError(f"the parameter's name {name!r} is no identifier")

    def _starts(self) -> Instance:
        """The problem at the starts of its unknowns."""
        return self.at(torch.tensor([slot.unknown.start for slot in self.slots], dtype=torch.float64))

    def _shape(self) -> tuple[bool, int]:
        """Whether the problem has no axis of components, and how many unknowns it has."""
        if self.history is None and self.initial is None:
            raise ValueError("the problem has neither a history nor an initial value")
        if isinstance(self.history, UnknownHistory):
            return self.history.size is None, self.history.size or 1
        if isinstance(self.history, Unknown):
            return True, 1
        start = torch.tensor([self.span[0]], dtype=torch.float64)
        raw = self.initial if self.history is None else self.history
        if callable(raw):
            raw = call(raw, 1, start, p=self._starts().p)
        if isinstance(raw, (list, tuple)):
            return False, len(raw)
        tensor = torch.as_tensor(raw)
        if tensor.ndim == 2 or (tensor.ndim == 1 and not callable(self.history)):
            return False, len(tensor)
        return True, 1

    def _probe(self) -> tuple[set[tuple[int, int | None, bool]], bool]:
        """Call everything once: which delayed values are read (delay, component, slope), and whether slopes are."""
        instance = self._starts()
        start, end = self.span
        lags = [float(lag.detach()) for lag in instance.lags if isinstance(lag, Tensor)]
        back = torch.linspace(start - max(lags, default=0.0), start, 65, dtype=torch.float64)
        if self.history is not None:
            past = instance.past(back).detach()
            bad = ~torch.isfinite(past).all(dim=0)
            if bool(bad.any()):
                raise ValueError(f"the history is not finite at t = {float(back[bad][0]):g}")
        initial = instance.initial.detach()
        if not bool(torch.isfinite(initial).all()):
            raise ValueError("the initial value is not finite")
        t = torch.tensor([start, (start + end) / 2, end], dtype=torch.float64)
        y = initial[:, None].expand(-1, 3).clone()
        seen: set[tuple[int, int | None, bool]] = set()

        def read(i: int, derivative: bool = False) -> Tensor:
            return torch.zeros_like(y) if derivative else y.clone()

        for lag in instance.lags:
            if not isinstance(lag, Tensor):
                lag(t, y)
        instance.derivative(t, y, read, seen)
        return seen, any(slope for _, _, slope in seen)


def _interval(span: Any) -> tuple[float, float]:
    try:
        start, end = (float(value) for value in span)
    except (TypeError, ValueError):
        raise ValueError(f"span={span!r} must be two numbers, start and end") from None
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        raise ValueError(f"span={start:g}, {end:g}: the end must come after the start")
    return start, end


def _number(value: Any) -> Tensor:
    """A scalar float64 tensor of a number, a NumPy scalar, or a tensor of one element (its graph is kept)."""
    if isinstance(value, Unknown):
        raise ValueError("an Unknown has no value yet")
    try:
        # The dtype is given at once: torch makes a float32 tensor of a Python float.
        found = torch.as_tensor(value, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{value!r} is no number") from None
    if found.numel() != 1:
        raise ValueError(f"{tuple(found.shape)} numbers were given where one is needed")
    return found.reshape(())


def _one_or_many(value: Any, values: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) and values.ndim == 2 and value.ndim == 1 else _number(value)
