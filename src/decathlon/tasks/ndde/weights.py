"""How the loss terms of a network become one objective."""

from collections.abc import Mapping

import torch
from torch import Tensor

WEIGHTS = ("coupled", "detached", "uniform", "fixed")
KINDS = ("equation", "initial", "data")


def shares(losses: Tensor) -> Tensor:
    """``w_i = L_i / sum L``, (q,); all equal where every loss is 0."""
    total = losses.sum()
    return torch.full_like(losses, 1 / len(losses)) if float(total.detach()) == 0 else losses / total


def objective(losses: Tensor, weights: str, fixed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The objective J and its derivatives by the losses, (q,).

    ``coupled``: ``J = sum L^2 / sum L`` with the gradient through the weights too, ``2 L/S - J/S``, as the paper's code
    has it: negative for a loss below half of J, which is then made larger. ``detached``: the same J with the weights
    held, gradient ``L/S``. ``uniform``: the mean. ``fixed``: ``sum w L``.
    """
    held = losses.detach()
    if weights == "uniform":
        factors = torch.full_like(held, 1 / len(held))
    elif weights == "fixed":
        assert fixed is not None
        factors = fixed
    else:
        factors = shares(held)
    value = factors @ held
    if weights == "coupled" and float(held.sum()) != 0:
        return value, 2 * factors - value / held.sum()
    return value, factors


def fixed_weights(given: Mapping[str, float] | None, kinds: list[str]) -> Tensor:
    """Weights (q,) by the kinds of the terms: equation, initial, data; a kind that is not named has 1."""
    given = dict(given or {})
    for name, value in given.items():
        if name not in KINDS or not float(value) >= 0:
            raise ValueError(f"fixed={name}: {value}: weights are not negative, of {', '.join(KINDS)}")
    return torch.tensor([float(given.get(kind, 1.0)) for kind in kinds], dtype=torch.float64)


def frozen(losses: Tensor, floor: float) -> Tensor:
    """The shares that the second stage keeps, none below ``floor``, summing to 1."""
    found = shares(losses).clamp(min=floor)
    return found / found.sum()
