"""What activations of named modules look like over many texts: streamed sums, nothing of the texts is kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from decathlon.language.forward import device_of, hidden_states
from decathlon.language.taps import run, tap


@dataclass
class Activation:
    """Statistics of one module's activations over all real tokens, float64, on the model's device.

    attributes:
        tokens: how many. total, square: sums of x and of x^2 by feature, (features,). largest: max |x|, (features,).
        moment: sum of x x^T, (features, features), if asked for.
    """

    tokens: int
    total: Tensor
    square: Tensor
    largest: Tensor
    moment: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """E[x], (features,)."""
        return self.total / self.tokens

    @property
    def variance(self) -> Tensor:
        """E[x^2] - E[x]^2, (features,)."""
        return (self.square / self.tokens - self.mean**2).clamp_min(0)

    def add(self, x: Tensor, moment: bool) -> None:
        """Add activations (tokens, features)."""
        wide = x.double()
        self.tokens += len(wide)
        self.total += wide.sum(dim=0)
        self.square += (wide**2).sum(dim=0)
        self.largest = torch.maximum(self.largest, wide.abs().amax(dim=0))
        if moment:
            product = wide.T @ wide
            self.moment = product if self.moment is None else self.moment + product


@torch.no_grad()
def activation_statistics(
    model: Any,
    names: Sequence[str],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    side: Literal["input", "output"] = "output",
    moment: bool = False,
) -> dict[str, Activation]:
    """Statistics of the inputs or outputs of modules; each pass ends at the last of them.

    Args:
        names: of modules, as ``model.get_submodule`` takes them.
        batches: ids and mask (1 = token, padded on the right), (rows, columns) each.
        moment: also the second moments, features x features.

    Raises:
        ValueError: one line, if there is no token, or for a module that the model does not have.
    """
    device = device_of(model)
    found: dict[str, Activation] = {}
    for ids, mask in batches:
        ids, mask = ids.to(device), mask.to(device)
        positions = torch.arange(ids.shape[1], device=device).expand(ids.shape)
        with tap(model, names, keep=(side,), stop=True) as taps:
            run(hidden_states, model, ids, mask, positions)
        for name, seen in (taps.inputs if side == "input" else taps.outputs).items():
            real = seen[mask.bool()]
            if not len(real):
                continue
            if name not in found:
                zeros = torch.zeros(real.shape[-1], dtype=torch.float64, device=device)
                found[name] = Activation(0, zeros, zeros.clone(), zeros.clone())
            found[name].add(real, moment)
    if not found:
        raise ValueError("the batches have no tokens")
    return found
