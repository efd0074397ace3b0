"""Line searches: strong Wolfe conditions (Nocedal and Wright, algorithms 3.5 and 3.6), and exact."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Function = Callable[[Array], tuple[float, Array]]


@dataclass
class Point:
    """A point on the line: step length, value, slope along the line, gradient."""

    length: float
    value: float
    slope: float
    gradient: Array


Search = Callable[[Function, Array, Array, float, Array, float], Point | None]


def strong_wolfe(
    function: Function, x: Array, direction: Array, value: float, gradient: Array, first: float = 1.0,
    decrease: float = 1e-4, curvature: float = 0.9, most: int = 25,
) -> Point | None:  # fmt: skip
    """A point with ``f <= f0 + decrease a f0'`` and ``|f'| <= curvature |f0'|``.

    Args:
        function: x -> value, gradient. direction: of descent. value, gradient: at ``x``.
        first: length that is tried first.
        most: evaluations.

    Returns:
        None if no such point is found.
    """
    start = Point(0.0, value, float(gradient @ direction), gradient)
    if not start.slope < 0:
        return None
    left = most

    def at(length: float) -> Point:
        nonlocal left
        left -= 1
        f, g = function(x + length * direction)
        return Point(length, f, float(g @ direction), g)

    def armijo(point: Point) -> bool:
        return point.value <= value + decrease * point.length * start.slope

    def zoom(low: Point, high: Point) -> Point | None:
        while left > 0 and abs(high.length - low.length) > 1e-14 * (1 + low.length):
            point = at(_between(low, high))
            if not math.isfinite(point.value) or not armijo(point) or point.value >= low.value:
                high = point
                continue
            if abs(point.slope) <= -curvature * start.slope:
                return point
            if point.slope * (high.length - low.length) >= 0:
                high = low
            low = point
        # The decrease alone will do when the flat end of the curve is not to be had in this precision.
        return low if low.length > 0 and armijo(low) and low.value < value else None

    before, length = start, first
    while left > 0:
        point = at(length)
        if not math.isfinite(point.value) or not armijo(point) or (before.length > 0 and point.value >= before.value):
            return zoom(before, point)
        if abs(point.slope) <= -curvature * start.slope:
            return point
        if point.slope >= 0:
            return zoom(point, before)
        before, length = point, 2 * length
    return None


def _between(low: Point, high: Point) -> float:
    """Minimum of the cubic through both ends, kept off the ends; the middle where there is none."""
    a, b = low.length, high.length
    middle = a + 0.5 * (b - a)
    if not (math.isfinite(high.value) and math.isfinite(high.slope)):
        return a + 0.1 * (b - a)
    d1 = low.slope + high.slope - 3 * (low.value - high.value) / (a - b)
    square = d1 * d1 - low.slope * high.slope
    if square < 0:
        return middle
    d2 = math.copysign(math.sqrt(square), b - a)
    bottom = high.slope - low.slope + 2 * d2
    if bottom == 0:
        return middle
    found = b - (b - a) * (high.slope + d2 - d1) / bottom
    edge = 0.1 * abs(b - a)
    return found if min(a, b) + edge <= found <= max(a, b) - edge else middle


def exact_on_quadratics(
    function: Function, x: Array, direction: Array, value: float, gradient: Array, first: float = 1.0
) -> Point | None:
    """The minimum along the line of a function that is quadratic on it."""
    _, ahead = function(x + direction)
    slope = float(gradient @ direction)
    curvature = float(ahead @ direction) - slope
    if not (slope < 0 < curvature):
        return None
    length = -slope / curvature
    f, g = function(x + length * direction)
    return Point(length, f, float(g @ direction), g)
