"""Networks as candidate solutions: one for each unknown, scaled, with the start value built in or not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.tasks.ndde.instance import Instance
from decathlon.tasks.ndde.networks import Architecture, evaluate, plain
from decathlon.tasks.ndde.residual import Key


@dataclass
class Form:
    """How networks make the solution: ``scale N(t)``; ``hard``: ``y(t0) + (1 - exp(-(t - t0))) scale N(t)``."""

    architecture: Architecture
    scales: Tensor
    hard: bool
    start: float

    def outputs(self, j: int, t: Tensor, value: Tensor, slope: Tensor | None, initial: Tensor) -> tuple[Tensor, Tensor]:
        """Values and slopes of the solution from those of network j; without slopes the second is empty."""
        scale = self.scales[j]
        if not self.hard:
            return scale * value, t[:0] if slope is None else scale * slope
        ramp = -torch.expm1(-(t - self.start))
        found = initial[j] + ramp * scale * value
        if slope is None:
            return found, t[:0]
        return found, scale * ((1 - ramp) * value + ramp * slope)


class NetworkCandidate:
    """The networks of a flat parameter vector, each evaluated once for all that is asked of it.

    Args:
        flat: (n count,). instance: for the start value.
        more: times (M,) at which values are wanted besides; they are in ``more_values`` (n, M) after ``prepare``.
    """

    def __init__(self, form: Form, flat: Tensor, instance: Instance, more: Tensor | None = None) -> None:
        self.form, self.initial = form, instance.initial if form.hard else torch.zeros(0)
        self.more = torch.zeros(0, dtype=torch.float64) if more is None else more
        self.more_values = self.more
        self.parts = flat.reshape(instance.problem.size, form.architecture.count)
        self.ready: dict[Key, Tensor] = {}
        self.jets: list[tuple[Tensor, Tensor]] = []

    def prepare(self, t: Tensor, requests: dict[Key, Tensor]) -> None:
        self.jets, self.ready, more = [], {}, []
        for j, part in enumerate(self.parts):
            own = [(key, s) for key, s in requests.items() if key[1] == j and len(s)]
            own.sort(key=lambda item: not item[0][2])  # slopes first
            times = torch.cat([t, *(s for _, s in own), self.more])
            count = len(t) + sum(len(s) for key, s in own if key[2])
            value, slope = evaluate(self.form.architecture, part, times, count)
            place = len(t)
            self.jets.append(self.form.outputs(j, t, value[:place], slope[:place], self.initial))
            for key, s in own:
                piece = slice(place, place + len(s))
                found = self.form.outputs(j, s, value[piece], slope[piece] if key[2] else None, self.initial)
                self.ready[key] = found[1] if key[2] else found[0]
                place += len(s)
            more.append(self.form.outputs(j, self.more, value[place:], None, self.initial)[0])
        self.more_values = torch.stack(more)

    def jet(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([value for value, _ in self.jets]), torch.stack([slope for _, slope in self.jets])

    def read(self, key: Key, s: Tensor, where: Tensor) -> Tensor:
        if key in self.ready:
            return self.ready[key]
        _, j, derivative = key
        value, slope = evaluate(self.form.architecture, self.parts[j], s, len(s) if derivative else 0)
        found = self.form.outputs(j, s, value, slope if derivative else None, self.initial)
        return found[1] if derivative else found[0]

    def values(self, t: Tensor) -> Tensor:
        """(n, N) at times (N,)."""
        rows = []
        for j, part in enumerate(self.parts):
            value, _ = evaluate(self.form.architecture, part, t, 0)
            rows.append(self.form.outputs(j, t, value, None, self.initial)[0])
        return torch.stack(rows)


class RowCandidate:
    """Networks with parameters of their own for each collocation time, by plain operations.

    The derivative of a sum of residuals by these is the Jacobian, row by row.

    Args:
        flat: (N, n count).
    """

    def __init__(self, form: Form, flat: Tensor, instance: Instance) -> None:
        self.form, self.initial = form, instance.initial if form.hard else torch.zeros(0)
        self.parts = flat.reshape(len(flat), instance.problem.size, form.architecture.count)

    def prepare(self, t: Tensor, requests: dict[Key, Tensor]) -> None:
        pass

    def jet(self, t: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for j in range(self.parts.shape[1]):
            value, slope = plain(self.form.architecture, self.parts[:, j], t)
            found.append(self.form.outputs(j, t, value, slope, self.initial))
        return torch.stack([value for value, _ in found]), torch.stack([slope for _, slope in found])

    def read(self, key: Key, s: Tensor, where: Tensor) -> Tensor:
        _, j, derivative = key
        value, slope = plain(self.form.architecture, self.parts[where, j], s)
        return self.form.outputs(j, s, value, slope, self.initial)[1 if derivative else 0]
