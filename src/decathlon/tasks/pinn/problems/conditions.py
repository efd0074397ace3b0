"""Boundary, initial and measured data: where their points lie and how far the network is from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.equations import Derivatives
from decathlon.equations.sampling import Box, latin_hypercube, on_value

# points (n, coordinates), derivative names -> values and derivatives of the network there
Evaluate = Callable[[Tensor, Sequence[str]], Derivatives]
Sampler = Callable[[int, torch.Generator], Tensor]
Target = Callable[[Tensor], Tensor]


@dataclass
class Sample:
    """Points of one condition at one step: ``x`` (n, coordinates), and the fields there, (fields, n), if given."""

    x: Tensor
    target: Tensor | None = None

    def to(self, like: Tensor) -> "Sample":
        """On the device and in the precision of ``like``."""
        target = None if self.target is None else self.target.to(like)
        return Sample(self.x.to(like), target)


def squared_error(evaluate: Evaluate, sample: Sample) -> Tensor:
    """Mean over points and fields of the squared distance from ``sample.target``."""
    if sample.target is None:
        raise ValueError("these points have no prescribed fields")
    return torch.nn.functional.mse_loss(evaluate(sample.x, ()).value, sample.target)


class Condition:
    """One condition on the solution besides the equation."""

    name: str

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """Draw points (float64, CPU)."""
        raise NotImplementedError

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        """The condition's loss on ``sample``."""
        raise NotImplementedError


@dataclass
class Dirichlet(Condition):
    """All the fields are prescribed: mean over points and fields of the squared error.

    Args:
        name: of the loss: boundary, initial, ...
        where: draws points.
        target: (n, coordinates) -> (n, fields).
    """

    name: str
    where: Sampler
    target: Target

    def sample(self, count: int, random: torch.Generator) -> Sample:
        x = self.where(count, random)
        return Sample(x, self.target(x).t())

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        return squared_error(evaluate, sample)


@dataclass
class Measurements(Condition):
    """The fields were measured at fixed points, of which every step draws some (all, if it asks for so many).

    Args:
        name: of the loss.
        x: (n, coordinates).
        values: (n, fields).
    """

    name: str
    x: Tensor
    values: Tensor

    def sample(self, count: int, random: torch.Generator) -> Sample:
        if count >= len(self.x):
            return Sample(self.x, self.values.t())
        chosen = torch.randperm(len(self.x), generator=random)[:count]
        return Sample(self.x[chosen], self.values[chosen].t())

    def loss(self, evaluate: Evaluate, sample: Sample) -> Tensor:
        return squared_error(evaluate, sample)


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
