"""A slowly moving copy of a model: the exponential moving average of its parameters."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def mean_lag(beta: float) -> float:
    """By how many steps the average trails the model on average: beta / (1 - beta)."""
    return beta / (1 - beta) if beta < 1 else float("inf")


class EMA:
    """xi <- beta xi + (1 - beta) theta over lists of tensors of equal shapes.

    beta = 0 makes xi equal to theta, beta = 1 leaves xi as it is, both exactly.

    Args:
        average: the tensors xi, changed in place.
        online: the tensors theta, read only.
        beta: share of xi that stays, in [0, 1].
    """

    def __init__(self, average: Iterable[Tensor], online: Iterable[Tensor], beta: float) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"beta={beta} is not the share of an average that stays; give a number from 0 to 1")
        self.average = list(average)
        self.online = list(online)
        self.beta = beta

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average."""
        if self.average:
            torch._foreach_lerp_(self.average, self.online, 1 - self.beta)


class Reference(nn.Module):
    """A copy of ``module`` whose parameters follow it by an exponential moving average.

    Call it like the module itself; call ``update()`` after each optimiser step. Its parameters need no
    gradient.

    Args:
        module: the model to follow, in its initial (pretrained) state.
        beta: share of the average that stays at a step; 0.5 by default in MolPeg.
        buffers: after each step copy the buffers (BatchNorm's running statistics) too, which an evaluation
            in eval mode needs.
        start: start from the weights of this module instead of from those of ``module``.
    """

    def __init__(
        self, module: nn.Module, beta: float = 0.5, buffers: bool = False, start: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.module = copy.deepcopy(module if start is None else start).requires_grad_(False)
        self.beta = beta
        self.copies_buffers = buffers
        self.lag = mean_lag(beta)
        # in a tuple, so that the online module does not become a submodule of this one
        self._pair = (EMA(self.module.parameters(), module.parameters(), beta), module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged module returns, without a graph."""
        with torch.no_grad():
            return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self) -> None:
        """Follow the online module by one step."""
        average, online = self._pair
        average.update()
        if self.copies_buffers:
            for mine, theirs in zip(self.module.buffers(), online.buffers(), strict=True):
                mine.copy_(theirs)
