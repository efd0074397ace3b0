"""Breaking points of delay equations, where a derivative of the solution jumps, and meshes that contain them."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

SMOOTH_ORDER = 5
"""A jump travels through the delays and gains one order at each; a fourth-order method notices none beyond this."""


def breaking_points(start: float, end: float, lags: Sequence[Tensor], order: int = SMOOTH_ORDER) -> Tensor:
    """``start``, ``end`` and the sums of at most ``order`` delays between them, each once, ascending.

    They are differentiable by the delays: a mesh through them moves along, and so a solution on it has no kinks as a
    function of the delays.

    Args:
        lags: positive scalars, float64.
    """
    floats = [float(lag.detach()) for lag in lags]
    tolerance = 1e-9 * (end - start)
    found: list[tuple[float, tuple[int, ...]]] = []
    for size in range(1, order + 1):
        for chosen in itertools.combinations_with_replacement(range(len(lags)), size):
            place = start + sum(floats[i] for i in chosen)
            if start + tolerance < place < end - tolerance:
                found.append((place, chosen))
    found.sort()
    points = [torch.tensor(start, dtype=torch.float64)]
    last = start
    for place, chosen in found:
        if place > last + tolerance:
            points.append(start + torch.stack([lags[i] for i in chosen]).sum())
            last = place
    return torch.stack([*points, torch.tensor(end, dtype=torch.float64)])


def chain(start: float, end: float, lag: Tensor) -> int:
    """How many multiples of a delay fit into an interval: the order up to which a neutral equation has jumps."""
    return max(1, math.ceil((end - start) / float(lag.detach())))


def refine(points: Tensor, step: float) -> Tensor:
    """A mesh through ``points`` with steps of at most ``step``, equal between two points.

    Returns:
        (K + 1,)
    """
    parts = [points[:1]]
    for k, length in enumerate((points[1:] - points[:-1]).detach().tolist()):
        # A little slack: a length that is a whole number of steps keeps its count when it changes by a millionth.
        count = max(1, math.ceil(length / step * (1 - 1e-4)))
        fractions = torch.arange(1, count + 1, dtype=torch.float64) / count
        parts.append(points[k] + (points[k + 1] - points[k]) * fractions)
    return torch.cat(parts)
