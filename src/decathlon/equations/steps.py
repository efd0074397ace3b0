"""The method of steps for delay equations: Runge-Kutta of order four, whose dense output is quartic.

``y'(t) = f(t, y(t), y(t - lag_0), y(t - lag_1), ...)``, where delayed slopes may occur too. The mesh contains the
breaking points of constant delays; those of delays that depend on time or on the solution are found where a delayed
time crosses an earlier one.

Many steps are made at once. For a guess of the values at the starts of K steps all the stages are evaluated together,
and the sums of their increments are the next guess. Guess number j is exact in its first j steps, and its error
elsewhere falls like ``(L W)^j / j!`` (L the Lipschitz constant, W the width of the K steps): a few evaluations of
long vectors in place of K small ones. Where that does not settle, K is reduced, in the end to one. Delayed times
inside the K steps are read from the guess, so delays that vanish or are shorter than a step need nothing else.
"""

import math
from collections.abc import Callable, Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from decathlon.equations.breaking import SMOOTH_ORDER, breaking_points, chain, refine
from decathlon.equations.hermite import INNER, PiecewiseHermite, cubic

Read = Callable[..., Tensor]
Derivative = Callable[[Tensor, Tensor, Read], Tensor]
Lag = Tensor | Callable[[Tensor, Tensor], Tensor]
SIDE = 1e-5
"""Displacement of a read, in steps, that says from which side of a breaking point it comes."""
FEWEST = 16
"""Steps made at once, at least, before it is known whether that settles."""
ROUNDS = 40
HUGE = 1e100
"""A value beyond this is taken for a step that is too long for a stiff equation, as infinity is."""


def integrate(
    derivative: Derivative,
    lags: Sequence[Lag],
    history: Callable[[Tensor], Tensor],
    initial: Tensor,
    span: tuple[float, float],
    step: float,
    neutral: bool = False,
) -> PiecewiseHermite:
    """Solve a delay equation on ``span``; differentiable by everything that ``derivative``, lags and history close
    over.

    Args:
        derivative: (t (N,), y (n, N), read) -> y' (n, N), where ``read(i)`` is y(t - lag_i), (n, N), and
            ``read(i, derivative=True)`` is y'(t - lag_i).
        lags: scalar tensors (0 too), or functions (t, y) -> (N,).
        history: (N,) -> (n, N), for times before the start.
        initial: y at the start, (n,).
        span: start and end.
        step: the longest step.
        neutral: whether delayed slopes are read: then jumps are not smoothed as they travel.

    Raises:
        ValueError: in one line, for a delay that is negative somewhere, or a solution that is not finite.
    """
    mesh = _mesh(lags, span, step, neutral)
    times = mesh.detach().tolist()
    fixed = [float(lag.detach()) for lag in lags if isinstance(lag, Tensor)]
    varying = [i for i, lag in enumerate(lags) if not isinstance(lag, Tensor)]
    past = PiecewiseHermite(history, mesh[:1], initial[:, None], initial.new_zeros(len(initial), 0, 3))
    breaks = {span[0]: 0}
    first, most = 0, len(times)
    while first < len(times) - 1:
        count = _count(times, first, min(fixed, default=math.inf), most)
        piece = _relax(derivative, lags, past, mesh[first : first + count + 1])
        if piece is None:
            most = max(1, count // 4)
            continue
        most = 2 * count if piece.rounds < ROUNDS // 2 else count
        crossing = _crossing(lags, varying, past, piece, breaks) if varying else None
        if crossing is None:
            past = piece.join(past, count)
            first += count
        else:
            number, i, place = crossing
            past = piece.join(past, number)
            first += number
            width = _meet(derivative, lags, past, float(mesh[first + 1]), i, place)
            new = past.nodes[-1:] + width
            short = _relax(derivative, lags, past, torch.cat([past.nodes[-1:], new]))
            assert short is not None
            past = short.join(past, 1)
            if neutral or breaks[place] < SMOOTH_ORDER:
                breaks[float(new)] = breaks[place] + 1
            # The rest of the step that was cut.
            if times[first + 1] - float(new) > 1e-9 * step:
                mesh = torch.cat([mesh[: first + 1], new, mesh[first + 1 :]])
                times.insert(first + 1, float(new))
            else:
                mesh = torch.cat([mesh[: first + 1], new, mesh[first + 2 :]])
                times[first + 1] = float(new)
            first += 1
    return past


def _mesh(lags: Sequence[Lag], span: tuple[float, float], step: float, neutral: bool) -> Tensor:
    constant = [lag for lag in lags if isinstance(lag, Tensor) and float(lag.detach()) != 0]
    for lag in constant:
        if float(lag.detach()) < 0:
            raise ValueError(f"a delay of {float(lag.detach()):g} is negative: the equation would read the future")
    order = SMOOTH_ORDER
    if neutral:  # as many as there are, within reason
        order = max([order, *(chain(*span, lag) for lag in constant)])
        order = min(order, 1000 if len(constant) == 1 else 12)
    return refine(breaking_points(*span, constant, order), step)


def _count(times: Sequence[float], first: int, shortest: float, most: int) -> int:
    """How many steps are made at once: those that read nothing of each other, or a few more."""
    last, limit = first + 1, times[first] + shortest * (1 + 1e-9)
    while last < len(times) - 1 and last - first < most and (times[last + 1] <= limit or last - first < FEWEST):
        last += 1
    return last - first


class _Piece:
    """K consecutive steps: mesh (K + 1,), values at their ends (n, K), slopes (n, K, 3): see ``PiecewiseHermite``."""

    def __init__(self, mesh: Tensor, values: Tensor, slopes: Tensor, rounds: int) -> None:
        self.mesh, self.values, self.slopes, self.rounds = mesh, values, slopes, rounds

    def join(self, past: PiecewiseHermite, count: int) -> PiecewiseHermite:
        """``past`` with the first ``count`` steps."""
        if count == 0:
            return past
        return past.extended(self.mesh[1 : count + 1], self.values[:, :count], self.slopes[:, :count])


class _Reads:
    """Delayed values at one stage of K steps."""

    def __init__(self, lags: Sequence[Lag], past: PiecewiseHermite, begin: Tensor, widths: Tensor) -> None:
        self.lags, self.begin = lags, float(begin.detach())
        self.curve, self.own, self.past = past, False, past
        # A read at the end of a step comes from the left of a breaking point, one at its start from the right.
        self.sides = [SIDE * widths.detach() * sign for sign in (1.0, 0.0, -1.0, 0.0)]
        self.kept: dict[tuple[int, int, bool], Tensor] = {}
        self.stage, self.t, self.y = 0, widths, widths

    def at(self, stage: int, t: Tensor, y: Tensor) -> "_Reads":
        self.stage, self.t, self.y = stage, t, y
        return self

    def __call__(self, i: int, derivative: bool = False) -> Tensor:
        key = (self.stage, i, derivative)
        if key in self.kept:
            return self.kept[key]
        lag = self.lags[i]
        side = self.sides[self.stage]
        if isinstance(lag, Tensor):
            s = self.t - lag
        else:
            s = torch.minimum(self.t - lag(self.t, self.y), self.t)
        if bool(((s + side).detach() > self.begin).any()):
            self.own = True
            return self.curve(s, side, derivative)
        found = self.past(s, side, derivative)
        if isinstance(lag, Tensor):
            self.kept[key] = found
        return found


def _relax(derivative: Derivative, lags: Sequence[Lag], past: PiecewiseHermite, mesh: Tensor) -> _Piece | None:
    """All the steps of ``mesh`` (K + 1,) after ``past``; None if that does not settle.

    Raises:
        ValueError: a single step is not finite, or reads the future.
    """
    start, widths = past.values[:, -1:], mesh[1:] - mesh[:-1]
    t0, t1, t2 = mesh[:-1], mesh[:-1] + widths / 2, mesh[1:]
    reads = _Reads(lags, past, mesh[0], widths)
    count, n = len(widths), len(start)
    ends = start.expand(n, count)

    def slopes_of(y: Tensor, k1: Tensor, ends: Tensor) -> Tensor:
        """At both ends of each step and inside it, where the cubic is accurate enough to ask for the slope."""
        last = derivative(t2, ends, reads.at(2, t2, ends))
        t = t0 + INNER * widths
        inner = cubic(torch.full_like(t, INNER), widths, y, ends, k1, last)
        return torch.stack([k1, last, derivative(t, inner, reads.at(3, t, inner))], dim=2)

    change = math.inf
    for rounds in range(1, ROUNDS + 1):
        y = torch.cat([start, ends[:, :-1]], dim=1)
        k1 = derivative(t0, y, reads.at(0, t0, y))
        y2 = y + (widths / 2) * k1
        k2 = derivative(t1, y2, reads.at(1, t1, y2))
        y3 = y + (widths / 2) * k2
        k3 = derivative(t1, y3, reads.at(1, t1, y3))
        y4 = y + widths * k3
        k4 = derivative(t2, y4, reads.at(2, t2, y4))
        before, ends = ends, start + torch.cumsum((widths / 6) * (k1 + 2 * (k2 + k3) + k4), dim=1)
        last, change = change, float((ends - before).detach().abs().max())
        settled = change <= 4e-15 * (1 + float(ends.detach().abs().max())) or (rounds > 8 and change == last)
        # Without delayed reads of its own the first j steps are exact after j rounds.
        settled = settled or (rounds >= count and not reads.own)
        if settled or reads.own:
            slopes = slopes_of(y, k1, ends)
            if settled and bool((ends.detach().abs() < HUGE).all()):
                _no_future(lags, mesh, ends)
                return _Piece(mesh, ends, slopes, rounds)
            reads.curve = past.extended(mesh[1:], ends, slopes)
        if not math.isfinite(change) or (rounds > 12 and change > 1e3 * (1 + float(ends.detach().abs().max()))):
            break
    if count == 1:
        if (
            math.isfinite(change)
            and bool((ends.detach().abs() < HUGE).all())
            and change < 1e-9 * (1 + float(ends.detach().abs().max()))
        ):
            return _Piece(mesh, ends, slopes_of(y, k1, ends), rounds)
        raise ValueError(
            f"the solution is not finite or a step does not settle at t = {float(mesh[1]):g}: take a smaller step"
        )
    return None


def _no_future(lags: Sequence[Lag], mesh: Tensor, ends: Tensor) -> None:
    """Refuse delays that are negative somewhere."""
    t = mesh[1:].detach()
    for i, lag in enumerate(lags):
        if not isinstance(lag, Tensor):
            value = lag(t, ends.detach())
            bad = value < -1e-9 * (1 + t.abs())
            if bool(bad.any()):
                where, size = float(t[bad][0]), float(value[bad][0])
                raise ValueError(f"delay {i} is {size:g} at t = {where:g}: it must not be negative")


def _delayed_times(lag: Lag, t: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return t - (lag if isinstance(lag, Tensor) else lag(t, y))


def _crossing(
    lags: Sequence[Lag], varying: Sequence[int], past: PiecewiseHermite, piece: _Piece, breaks: dict[float, int]
) -> tuple[int, int, float] | None:
    """The first step in which a varying delayed time crosses a breaking point: its number, the delay, that point."""
    nodes = piece.mesh.detach()
    values = torch.cat([past.values[:, -1:], piece.values], dim=1).detach()
    margin = 1e-9 * (1 + float(nodes.abs().max()))
    found: list[tuple[int, int, float]] = []
    for i in varying:
        s = _delayed_times(lags[i], nodes, values)
        for place in breaks:
            crossed = (s[:-1] + margin < place) & (place < s[1:] - margin) & (nodes[:-1] >= place)
            if bool(crossed.any()):
                found.append((int(torch.nonzero(crossed)[0, 0]), i, place))
    return min(found, default=None)


def _meet(
    derivative: Derivative, lags: Sequence[Lag], past: PiecewiseHermite, until: float, i: int, place: float
) -> float:
    """After how long a step from the end of ``past`` delay i's delayed time lies exactly on ``place``."""
    begin = past.nodes[-1:].detach()
    most = until - float(begin)

    def distance(width: float) -> float:
        with torch.no_grad():
            step = _relax(derivative, lags, past, torch.cat([begin, begin + width]))
            assert step is not None
            return float(_delayed_times(lags[i], begin + width, step.values)) - place

    if distance(most) <= 0:
        return most
    return float(brentq(distance, 1e-9 * most, most, xtol=1e-14 * (1 + abs(place))))
