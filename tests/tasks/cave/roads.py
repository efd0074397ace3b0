"""Traffic whose answers are known: nobody at all, and vehicles that stand still beside the ego."""

from dataclasses import dataclass

import torch


@dataclass
class Parked:
    """``count`` vehicles that never move, ten metres apart."""

    count: int

    def begin(self, scenarios: torch.Tensor, dt: float, horizon: float) -> "Standing":
        return Standing(self.count, len(scenarios))


class Standing:
    """The traffic of :class:`Parked`."""

    def __init__(self, count: int, scenarios: int) -> None:
        self.ids = torch.arange(count).expand(scenarios, -1)

    def advance(self) -> None:
        pass

    def relative(self, columns: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        ids = self.ids if columns is None else self.ids.gather(1, columns)
        still = torch.zeros(ids.shape, dtype=torch.float64)
        return 10.0 * (1 + ids.double()), still, still, still, still


NOBODY = Parked(0)
