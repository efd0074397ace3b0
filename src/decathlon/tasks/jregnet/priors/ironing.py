"""Ironing (Myerson 1981, section 6): virtual values are slopes of the concave hull of the revenue curve."""

from itertools import pairwise

import torch
from torch import Tensor


def concave_majorant(levels: Tensor, heights: Tensor) -> Tensor:
    """Slopes of the least concave majorant of the points (levels, heights), one per interval; levels increase."""
    x, y = levels.tolist(), heights.tolist()
    hull: list[int] = []
    for point in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[point] - x[a]) > (y[point] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(point)
    slopes = torch.empty(len(x) - 1, dtype=torch.float64)
    for a, b in pairwise(hull):
        slopes[a:b] = (y[b] - y[a]) / (x[b] - x[a])
    return slopes
