"""A network's losses as one vector of residuals, and its Jacobian: what Levenberg-Marquardt needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decathlon.tasks.ndde.candidates import Form, RowCandidate
from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.residual import Collocation


@dataclass
class Losses:
    """The losses of ``Pinn``.

    Attributes:
        form: of the networks; their weights are the first ``size`` trained numbers.
        values: from the other trained numbers to the unknowns.
        times: collocation times, (N_f,).
    """

    problem: DDE
    form: Form
    size: int
    values: Callable[[Tensor], Tensor]
    times: Tensor
    observations: Observations | None

    def rows(self, flat: Tensor, factors: Sequence[float], jacobian: bool) -> tuple[np.ndarray, np.ndarray]:
        """The residuals (M,), whose sum of squares is the objective, and their Jacobian (M, P), or (0, P).

        Args:
            flat: all that is trained, (P,). factors: for each loss the root of its weight.
        """
        blocks: list[tuple[Tensor, Tensor]] = []
        kept = iter(factors)
        start = torch.full((1,), self.problem.span[0], dtype=torch.float64)
        groups: list[tuple[Tensor, str, Tensor, Tensor]] = [(self.times, "equation", self.times, self.times)]
        if not self.form.hard:
            groups.append((start, "initial", start, start))
        if self.observations is not None:
            groups.append((self.observations.times, "data", self.observations.values, self.observations.seen))
        for t, kind, target, seen in groups:
            own = flat.expand(len(t), -1).clone().requires_grad_(jacobian)
            instance = self.problem.at(self.values(own[:, self.size :].t()))
            candidate = RowCandidate(self.form, own[:, : self.size], instance)
            if kind == "equation":
                rows = Collocation(t).residual(instance, candidate)[0]
                mask = torch.ones_like(rows, dtype=torch.bool)
            else:
                rows = candidate.jet(t)[0]
                rows = rows - (instance.initial[:, None] if kind == "initial" else target.nan_to_num())
                mask = torch.ones_like(rows, dtype=torch.bool) if kind == "initial" else seen
            for j in range(self.problem.size):
                if not bool(mask[j].any()):
                    continue
                factor = next(kept) / math.sqrt(int(mask[j].sum()))
                (gradient,) = torch.autograd.grad(rows[j].sum(), own, retain_graph=True) if jacobian else (own[:0],)
                chosen = mask[j] if jacobian else mask[j][:0]
                blocks.append((factor * rows[j][mask[j]].detach(), factor * gradient[chosen]))
        return torch.cat([r for r, _ in blocks]).numpy(), torch.cat([g for _, g in blocks]).numpy()
