"""The price of regret: Lagrange multipliers and their schedules."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decathlon.build import check_options


@dataclass(frozen=True)
class Ramp:
    """One multiplier for all bidders that grows linearly from ``start`` to ``end`` over a share of the training."""

    start: float = 2.0
    end: float = 50.0
    share: float = 1.0


@dataclass(frozen=True)
class Augmented:
    """Augmented Lagrangian: lambda_i += rho rgt_i every ``update_every`` steps, rho += rho_step every ``rho_every``."""

    start: float = 2.0
    update_every: int = 100
    rho: float = 0.5
    rho_step: float = 0.5
    rho_every: int = 10_000


class Multipliers(nn.Module):
    """State of the multipliers of ``seeds`` stacked runs: lambda (S, n) and rho (a scalar), both in the state_dict.

    Args:
        schedule: ``{"kind": "ramp", ...}`` (:class:`Ramp`) or ``{"kind": "augmented", ...}`` (:class:`Augmented`).

    Raises:
        ValueError, ConfigError: in one line, a kind or an option that there is not.
    """

    multiplier: Tensor
    rho: Tensor

    def __init__(self, seeds: int, bidders: int, schedule: dict[str, object]) -> None:
        super().__init__()
        options = dict(schedule)
        kind = options.pop("kind", "ramp")
        kinds: dict[object, type[Ramp] | type[Augmented]] = {"ramp": Ramp, "augmented": Augmented}
        if kind not in kinds:
            raise ValueError(f"lagrangian.kind={kind} is unknown; choose ramp or augmented")
        check_options(kinds[kind], options, f"lagrangian.kind={kind}")
        self.schedule: Ramp | Augmented = kinds[kind](**options)  # type: ignore[arg-type]
        rho = self.schedule.rho if isinstance(self.schedule, Augmented) else 0.0
        self.register_buffer("multiplier", torch.full((seeds, bidders), float(self.schedule.start)))
        self.register_buffer("rho", torch.tensor(float(rho)))

    def penalty(self, regrets: Tensor) -> Tensor:
        """``sum_i lambda_i rgt_i + rho / 2 sum_i rgt_i^2``: (S, n) -> (S,)."""
        linear = (self.multiplier * regrets).sum(1)
        return linear + self.rho / 2 * regrets.square().sum(1) if isinstance(self.schedule, Augmented) else linear

    def begin(self, progress: float) -> None:
        """Before a step at ``progress`` in [0, 1] of the training: move along the ramp."""
        if isinstance(self.schedule, Ramp):
            share = min(1.0, progress / self.schedule.share) if self.schedule.share > 0 else 1.0
            self.multiplier.fill_(self.schedule.start + share * (self.schedule.end - self.schedule.start))

    def due(self, step: int) -> bool:
        """Whether lambda is updated after step number ``step`` (from 1)."""
        return isinstance(self.schedule, Augmented) and step % self.schedule.update_every == 0

    def update(self, regrets: Tensor) -> None:
        """lambda_i += rho rgt_i with the regrets (S, n) under the new weights."""
        self.multiplier.add_(self.rho * regrets)

    def end(self, step: int) -> None:
        """After step number ``step`` (from 1): rho moves on its schedule."""
        if isinstance(self.schedule, Augmented) and step % self.schedule.rho_every == 0:
            self.rho.add_(self.schedule.rho_step)
