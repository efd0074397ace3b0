"""What keeps a network on the way to a sensible estimate; not in the paper, which trains plain scalars and outputs."""

import torch
from torch import Tensor

from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.unknown import Unknown

FIRST = 0.05  # of the interval: where an unknown delay begins at least, since a sigmoid is flat at its ends


def inside(problem: DDE) -> DDE:
    """The problem with each unknown delay trained as a sigmoid between 0 and the length of the interval.

    A plain scalar may become negative. The equation then reads the network beyond the interval, where nothing binds it:
    any observations are met exactly, by values that mean nothing.
    """
    length = problem.span[1] - problem.span[0]
    own = {
        slot.name: Unknown(
            max(slot.unknown.start, FIRST * length), slot.unknown.low or 0.0, slot.unknown.high or length, "bounded"
        )
        for slot in problem.slots
        if slot.delay and slot.unknown.transform == "free"
    }
    return problem.unknown(**own) if own else problem


def data_scales(observations: Observations | None, size: int) -> Tensor:
    """For each unknown function the largest observed size, (n,); 1 where nothing was observed."""
    if observations is None:
        return torch.ones(size, dtype=torch.float64)
    largest = observations.values.nan_to_num().abs().amax(dim=1)
    return torch.where(largest > 0, largest, torch.ones_like(largest))
