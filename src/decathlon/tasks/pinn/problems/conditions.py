"""Boundary, initial and measured data: where their points lie and how far the network is from them."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decathlon.equations import Derivatives
from decathlon.equations.derivatives import Wanted
from decathlon.equations.sampling import Box, latin_hypercube, on_value

# points (n, coordinates), derivative names -> values and derivatives of the network there
Evaluate = Callable[[Tensor, Wanted], Derivatives]
Sampler = Callable[[int, torch.Generator], Tensor]
Target = Callable[[Tensor], Tensor]
Residuals = Callable[..., Tensor | Sequence[Tensor]]


@dataclass
class Sample:
    """Points of one condition at one step.

    Attributes:
        x: (n, coordinates).
        target: what is prescribed there, (fields, n), if anything is.
        normal: unit normals, (n, axes), if they matter.
    """

    x: Tensor
    target: Tensor | None = None
    normal: Tensor | None = None

    def to(self, like: Tensor) -> "Sample":
        """On the device and in the precision of ``like``."""
        target, normal = (None if part is None else part.to(like) for part in (self.target, self.normal))
        return Sample(self.x.to(like), target, normal)


def squared_error(evaluate: Evaluate, sample: Sample, fields: Sequence[int] | None = None) -> Tensor:
    """Mean over points and fields (all, or those at ``fields``) of the squared distance from ``sample.target``."""
    value = evaluate(sample.x, ()).value
    return _distance(value if fields is None else value[list(fields)], sample.target)


def _distance(found: Tensor, target: Tensor | None) -> Tensor:
    if target is None:
        raise ValueError("these points have no prescribed fields")
    if found.shape != target.shape:  # broadcast, they would give a wrong loss without a word
        (fields, points), wanted = found.shape, tuple(target.shape[::-1])
        raise ValueError(f"the target has the shape {wanted}: {fields} fields at {points} points need {points, fields}")
    return torch.nn.functional.mse_loss(found, target)


def _columns(target: Tensor) -> Tensor:
    """A target (n, fields), or (n,) of one field, as (fields, n)."""
    return target[None] if target.ndim == 1 else target.t()


class Condition:
    """One condition on the solution besides the equation.

    A new one defines ``name``, ``sample`` and ``loss``; most are an ``OperatorCondition``.
    """

    name: str

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """Draw points (float64, CPU)."""
        raise NotImplementedError

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        """The condition's loss on ``sample``: a scalar."""
        raise NotImplementedError

    def weight(self, sample: Sample) -> int:
        """How many points ``sample`` counts for, where several conditions share one mean."""
        return len(sample.x)


@dataclass
class Dirichlet(Condition):
    """Fields are prescribed: mean over points and fields of the squared error.

    Args:
        name: of the loss: boundary, initial, ...
        where: draws points.
        target: (n, coordinates) -> (n, fields).
        fields: positions of the fields that are prescribed; all by default.
    """

    name: str
    where: Sampler
    target: Target
    fields: Sequence[int] | None = None

    def sample(self, count: int, random: torch.Generator) -> Sample:
        x = self.where(count, random)
        return Sample(x, _columns(self.target(x)))

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        return squared_error(evaluate, sample, self.fields)


@dataclass
class Measurements(Condition):
    """The fields were measured at fixed points, of which every step draws some (all, if it asks for so many).

    Args:
        name: of the loss.
        x: (n, coordinates).
        values: (n, fields).
        fields: positions of the fields that were measured; all by default.
    """

    name: str
    x: Tensor
    values: Tensor
    fields: Sequence[int] | None = None

    def sample(self, count: int, random: torch.Generator) -> Sample:
        if count >= len(self.x):
            return Sample(self.x, _columns(self.values))
        chosen = torch.randperm(len(self.x), generator=random)[:count]
        return Sample(self.x[chosen], _columns(self.values[chosen]))

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        return squared_error(evaluate, sample, self.fields)


@dataclass
class Robin(Condition):
    """``value * u + slope * du/dn`` is prescribed: mean over points and fields of the squared error.

    Args:
        name: of the loss.
        where: draws points.
        target: (n, coordinates) -> (n, fields).
        along: letters of the coordinates in which the normal lies, such as ``"xy"``.
        normal: (n, coordinates) -> unit normals (n, axes of ``along``), such as
            ``decathlon.equations.sampling.outward(box, axes)``; or one normal for all points, such as ``(1.0,)``.
        value, slope: the two factors.
        fields: positions of the fields that are prescribed; all by default.
    """

    name: str
    where: Sampler
    target: Target
    along: str
    normal: Target | Sequence[float]
    value: float = 1.0
    slope: float = 1.0
    fields: Sequence[int] | None = None

    def sample(self, count: int, random: torch.Generator) -> Sample:
        x = self.where(count, random)
        normal = self.normal(x) if callable(self.normal) else x.new_tensor(self.normal).expand(len(x), -1)
        if normal.shape != (len(x), len(self.along)):
            raise ValueError(
                f"{self.name}: normals have the shape {tuple(normal.shape)}: {self.along!r} needs "
                f"{len(x), len(self.along)}"
            )
        return Sample(x, _columns(self.target(x)), normal)

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        assert sample.normal is not None
        d = evaluate(sample.x, tuple(self.along))
        parts = [n * d[letter] for n, letter in zip(sample.normal.t(), self.along)]
        found = self.value * d.value + self.slope * torch.stack(parts).sum(0)
        return _distance(found if self.fields is None else found[list(self.fields)], sample.target)


class Neumann(Robin):
    """The normal derivative is prescribed: ``Robin`` with the factors 0 and 1.

    Args:
        name, where, target, along, normal, fields: as of ``Robin``.
    """

    def __init__(
        self,
        name: str,
        where: Sampler,
        target: Target,
        along: str,
        normal: Target | Sequence[float],
        fields: Sequence[int] | None = None,
    ) -> None:
        super().__init__(name, where, target, along, normal, 0.0, 1.0, fields)


@dataclass
class OperatorCondition(Condition):
    """Any expression vanishes at the points: sum over the expressions of their mean square.

    Args:
        name: of the loss.
        where: draws points.
        expressions: ``(d, x)`` or ``(d, x, evaluate)`` -> one or several tensors (n,), or (fields, n); ``d`` holds
            values and ``derivatives`` at ``x``, and ``evaluate(points, names)`` gives them elsewhere.
        derivatives: names of those that the expressions use.
    """

    name: str
    where: Sampler
    expressions: Residuals
    derivatives: Wanted = ()

    def sample(self, count: int, random: torch.Generator) -> Sample:
        return Sample(self.where(count, random))

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        d = evaluate(sample.x, self.derivatives)
        found = residuals_of(self.expressions, d, sample.x, evaluate, self.name)
        return torch.stack([residual.square().mean() for residual in found]).sum()


@dataclass
class Periodic(Condition):
    """The fields, and some of their derivatives, agree at both ends of one axis.

    The loss sums over these quantities and over the fields the mean over the pairs of the squared difference.

    Args:
        name: of the loss.
        box: of all the coordinates.
        axis: the periodic one.
        derivatives: names of the derivatives that must agree besides the fields themselves.
    """

    name: str
    box: Box
    axis: int
    derivatives: Sequence[str] = ()

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """``count`` pairs: the first half of the points is on the low side."""
        low, high = self.box[self.axis]
        left = latin_hypercube(on_value(self.box, self.axis, low), count, random)
        right = left.clone()
        right[:, self.axis] = high
        return Sample(torch.cat([left, right]))

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        found = evaluate(sample.x, self.derivatives)
        pairs = [found.value, *found.values()]
        differences = [left - right for left, right in (values.chunk(2, dim=1) for values in pairs)]
        return torch.stack([difference.square().mean(1).sum() for difference in differences]).sum()

    def weight(self, sample: Sample) -> int:
        """The number of pairs."""
        return len(sample.x) // 2


def residuals_of(function: Residuals, d: Derivatives, x: Tensor, evaluate: Evaluate, label: str) -> list[Tensor]:
    """Call ``function(d, x)``, or ``function(d, x, evaluate)`` if it takes three arguments.

    Returns:
        Its residuals, (n,) each, or (fields, n).

    Raises:
        ValueError: one has another shape: by broadcasting, (n, 1) and (n,) become (n, n), which is no residual.
    """
    arguments: tuple[Any, ...] = (d, x, evaluate) if _positional(function) >= 3 else (d, x)
    found = function(*arguments)
    residuals = [found] if isinstance(found, Tensor) else list(found)
    fields, points = d.value.shape
    for number, residual in enumerate(residuals, start=1):
        if tuple(residual.shape) not in {(points,), (1, points), (fields, points)}:
            raise ValueError(
                f"{label}: residual {number} has the shape {tuple(residual.shape)}; at {points} points it must have "
                f"({points},)"
            )
    return residuals


def _positional(function: Residuals) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in kinds for parameter in inspect.signature(function).parameters.values())
