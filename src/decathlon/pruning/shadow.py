"""A reference for modules that bring none: an averaged copy of all parameters, evaluated in the module's place."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from decathlon.pruning.reference import EMA


class _SampleLosses(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Tensor:
        return self.module.sample_losses(batch)  # type: ignore[operator]


class Shadow:
    """Averaged parameters of ``module``, whose ``sample_losses(batch) -> (B,)`` they are used in.

    Unlike ``Reference`` it copies tensors only, so that the module may hold anything else. Buffers are its own.

    Args:
        beta: share of the average that stays at a step.
        buffers: follow the module's buffers at each step.
    """

    def __init__(self, module: nn.Module, beta: float, buffers: bool = False) -> None:
        self.wrapped = _SampleLosses(module)
        self.copies_buffers = buffers
        online = dict(self.wrapped.named_parameters())
        self.parameters = {name: tensor.detach().clone() for name, tensor in online.items()}
        self.buffers = {name: tensor.clone() for name, tensor in self.wrapped.named_buffers()}
        self._ema = EMA(self.parameters.values(), online.values(), beta)

    @torch.no_grad()
    def losses(self, batch: Any, moving: bool = True) -> Tensor:
        """Per-sample losses (B,) under the averaged parameters; ``moving``: its own buffers take note of the batch."""
        buffers = self.buffers if moving else {name: tensor.clone() for name, tensor in self.buffers.items()}
        return functional_call(self.wrapped, {**self.parameters, **buffers}, (batch,))

    @torch.no_grad()
    def update(self) -> None:
        """Follow the module by one step."""
        self._ema.update()
        if self.copies_buffers:
            for name, tensor in self.wrapped.named_buffers():
                self.buffers[name].copy_(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged parameters and the buffers."""
        return {**self.parameters, **self.buffers}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state_dict()``."""
        for name, tensor in {**self.parameters, **self.buffers}.items():
            tensor.copy_(state[name])
