"""The residual of a delay equation for any candidate solution: network, exact function, or piecewise expansion.

The delayed value is read from the candidate where ``t - tau`` lies after the start, and from the history elsewhere.
Each of the two is evaluated on its own times only: a history that is not defined after the start spoils no gradient.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from decathlon.equations.hermite import slope_of
from decathlon.tasks.ndde.instance import Instance
from decathlon.tasks.ndde.unknown import Unknown

Key = tuple[int, int, bool]  # delay, component, whether the slope is read


class Candidate(Protocol):
    """A function of time that may solve the equation."""

    def prepare(self, t: Tensor, requests: dict[Key, Tensor]) -> None:
        """What will be asked: values and slopes at ``t``, and the reads of constant delays with their times."""

    def jet(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Values and slopes (n, N) at times (N,)."""

    def read(self, key: Key, s: Tensor, where: Tensor) -> Tensor:
        """Values, or slopes, (M,) of a component at times ``s`` (M,), for the rows ``where`` (M,) of ``t``."""


class FunctionCandidate:
    """A torch function of time (N,) -> (n, N), or (N,) for one unknown, as a candidate."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def _rows(self, t: Tensor) -> Tensor:
        found = self.function(t)
        return found[None] if found.ndim == 1 else found

    def prepare(self, t: Tensor, requests: dict[Key, Tensor]) -> None:
        pass

    def jet(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._rows(t), slope_of(self._rows, t)

    def read(self, key: Key, s: Tensor, where: Tensor) -> Tensor:
        _, component, derivative = key
        return (slope_of(self._rows, s) if derivative else self._rows(s))[component]


class Split:
    """The times at which one delay reads, parted at the start of the interval."""

    def __init__(self, s: Tensor, start: float) -> None:
        late = (s > start).detach()
        self.count, self.fixed = len(s), not s.requires_grad
        self.late, self.early = torch.nonzero(late)[:, 0], torch.nonzero(~late)[:, 0]
        self.s_late, self.s_early = s[self.late], s[self.early]
        self.past: dict[bool, Tensor] = {}


class Collocation:
    """Fixed times at which the residual is taken; what cannot change between two calls is kept."""

    def __init__(self, t: Tensor) -> None:
        self.t = t
        self.kept: dict[int, Split] = {}

    def residual(self, instance: Instance, candidate: Candidate) -> tuple[Tensor, Tensor]:
        """The residual (n, N), and the candidate's values there."""
        reads = _Reads(self, instance, candidate)
        value, slope = candidate.jet(self.t)
        reads.value = value
        return slope - instance.derivative(self.t, value, reads), value

    def split(self, instance: Instance, i: int, lag: Tensor) -> Split:
        """How the times of a constant delay part."""
        if i in self.kept:
            return self.kept[i]
        made = Split(self.t - lag, instance.problem.span[0])
        if made.fixed and not isinstance(instance.problem.delays[i], Unknown):
            self.kept[i] = made
        return made


def residual(instance: Instance, candidate: Candidate, t: Tensor) -> Tensor:
    """``y'(t) - F(t, y(t), y(t - tau_1), ...)``, (n, N), at times ``t`` (N,)."""
    return Collocation(t).residual(instance, candidate)[0]


class _Reads:
    """Delayed values of a candidate at the collocation times."""

    def __init__(self, points: Collocation, instance: Instance, candidate: Candidate) -> None:
        self.instance, self.candidate, self.t = instance, candidate, points.t
        self.lags, self.value = instance.lags, points.t
        self.splits: dict[int, Split] = {}
        requests: dict[Key, Tensor] = {}
        for i, lag in enumerate(self.lags):
            if isinstance(lag, Tensor):
                self.splits[i] = points.split(instance, i, lag)
                for derivative in (False, True):
                    for j in instance.problem.components(i, derivative):
                        requests[i, j, derivative] = self.splits[i].s_late
        candidate.prepare(points.t, requests)

    def __call__(self, i: int, derivative: bool = False) -> Tensor:
        problem, lag = self.instance.problem, self.lags[i]
        if isinstance(lag, Tensor):
            split = self.splits[i]
        else:
            split = Split(self.t - lag(self.t, self.value), problem.span[0])
        wanted = problem.components(i, derivative)
        found = torch.zeros(problem.size, split.count, dtype=torch.float64)
        if len(split.early):
            found = found.index_copy(1, split.early, self._past(split, derivative))
        if len(split.late):
            nothing = torch.zeros_like(split.s_late)
            rows = [
                self.candidate.read((i, j, derivative), split.s_late, split.late) if j in wanted else nothing
                for j in range(problem.size)
            ]
            found = found.index_copy(1, split.late, torch.stack(rows))
        return found

    def _past(self, split: Split, derivative: bool) -> Tensor:
        if derivative in split.past:
            return split.past[derivative]
        past = self.instance.past
        found = slope_of(past, split.s_early) if derivative else past(split.s_early)
        if split.fixed and not found.requires_grad and self.instance.coefficients is None:
            split.past[derivative] = found
        return found
