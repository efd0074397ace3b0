"""Points in boxes and on their walls: Latin hypercubes, drawn from a generator that is a function of seed and step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Box = Sequence[tuple[float, float]]

_MASK = (1 << 64) - 1


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a mix of the integers ``key``, such as (seed, step): no state to carry along."""
    state = 0
    for number in key:
        state = _splitmix64((state ^ (number & _MASK)) & _MASK)
    return torch.Generator().manual_seed(state & ((1 << 63) - 1))


def _splitmix64(value: int) -> int:
    """One step of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64-bit integers that mixes well."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def latin_hypercube(box: Box, count: int, random: torch.Generator) -> Tensor:
    """``count`` points in ``box``, one in each of the ``count`` equal strata of every axis.

    Args:
        box: (low, high) of every axis; where they are equal all the points lie on that value.

    Returns:
        (count, axes), float64.
    """
    units = torch.rand(len(box), count, dtype=torch.float64, generator=random)
    for axis, (low, high) in zip(units, box):
        if low == high:
            axis.fill_(low)
        else:
            axis.add_(torch.randperm(count, generator=random)).mul_((high - low) / max(count, 1)).add_(low)
    return units.t()


def on_value(box: Box, axis: int, value: float) -> list[tuple[float, float]]:
    """The slice of ``box`` where the coordinate ``axis`` has ``value``."""
    found = [(float(low), float(high)) for low, high in box]
    found[axis] = (float(value), float(value))
    return found


def on_walls(box: Box, axes: Sequence[int], count: int, random: torch.Generator) -> Tensor:
    """Points on the two walls of each of ``axes``: in proportion to the walls' measure, half on either side.

    Measures are products of the lengths of the other ``axes``, so a time axis that is not among them does not count.

    Returns:
        (count, dimensions), wall by wall.
    """
    measures = [_measure(box, axes, axis) for axis in axes]
    shares = split(count, measures)
    parts = []
    for axis, share in zip(axes, shares):
        for side, number in zip(box[axis], (share - share // 2, share // 2)):
            parts.append(latin_hypercube(on_value(box, axis, side), number, random))
    return torch.cat(parts)


def on_edges(box: Box, axes: Sequence[int], count: int, random: torch.Generator) -> Tensor:
    """Points on the edges of the box of ``axes``: along each axis the same number, on its edges in turn."""
    parts = []
    for axis, share in zip(axes, split(count, [1.0] * len(axes))):
        points = latin_hypercube(box, share, random)
        corner = torch.arange(share)
        for other in axes:
            if other != axis:
                sides = torch.tensor(box[other], dtype=torch.float64)
                points[:, other] = sides[corner % 2]
                corner = corner // 2
        parts.append(points)
    return torch.cat(parts)


def outward(box: Box, axes: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Outward unit normals of the box of ``axes``, as a function of points on its walls.

    Returns:
        (n, coordinates) -> (n, axes). On an edge it is the mean of the walls' normals, of length one.
        The function raises ValueError if a point lies on no wall.
    """
    bounds = torch.tensor([box[axis] for axis in axes], dtype=torch.float64)

    def normals(x: Tensor) -> Tensor:
        inside = x[:, list(axes)]
        low, high = bounds.to(x).unbind(1)
        found = (inside == high).to(x.dtype) - (inside == low).to(x.dtype)
        length = torch.linalg.vector_norm(found, dim=1, keepdim=True)
        if not bool((length > 0).all()):
            raise ValueError(f"{int((length == 0).sum())} of {len(x)} points lie on no wall of the axes {list(axes)}")
        return found / length

    return normals


def split(count: int, weights: Sequence[float]) -> list[int]:
    """``count`` in whole parts in proportion to ``weights``: rounded down, what is left goes to the last."""
    total = sum(weights)
    parts = [int(count * weight / total) for weight in weights]
    parts[-1] += count - sum(parts)
    return parts


def grid(*axes: Tensor) -> Tensor:
    """All combinations of the coordinates, the last one running fastest: (points, dimensions), float64."""
    meshes = torch.meshgrid(*[axis.to(torch.float64) for axis in axes], indexing="ij")
    return torch.stack([mesh.reshape(-1) for mesh in meshes], dim=1)


def _measure(box: Box, axes: Sequence[int], axis: int) -> float:
    product = 1.0
    for other in axes:
        if other != axis:
            low, high = box[other]
            product *= high - low
    return product
