"""The training loop in plain PyTorch; the LightningModule runs the same iterations."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.tasks.jregnet.compute import small_nets
from decathlon.tasks.jregnet.market import TrainingProfiles
from decathlon.tasks.jregnet.methods import Batch, Method


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate: linear up over ``warmup`` iterations, then a cosine down to ``final_lr`` of ``lr``."""

    iterations: int
    lr: float
    warmup: int = 0
    final_lr: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of iteration ``step`` (from 0)."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.iterations)))
        return self.lr * warm * (self.final_lr + (1 - self.final_lr) * cosine)


def adam(method: Method, lr: float) -> torch.optim.Adam:
    """Adam on all that the method trains; elementwise, so stacked runs do not mix."""
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trainable, lr=lr, fused=True)


def iterate(
    method: Method,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    step: int,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> dict[str, Tensor]:
    """One iteration of the algorithm: misreports, one step on the loss, multipliers.

    Args:
        step: its number, from 0.
        backward: computes gradients of a scalar; Lightning has its own.

    Returns:
        (S,) numbers to log.
    """
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(step)
    losses, logs = method.losses(batch, step / schedule.iterations)
    optimizer.zero_grad()
    backward(losses.sum())
    optimizer.step()
    method.after_step(batch, step + 1)
    return logs


def train(method: Method, profiles: TrainingProfiles, schedule: Schedule) -> Method:
    """Train ``method`` in place from its first iteration to its last, and return it."""
    optimizer = adam(method, schedule.lr)
    dtype = next(method.parameters()).dtype
    with small_nets():
        for step in range(schedule.iterations):
            batch = profiles.batch(step).to(torch.device("cpu"), dtype)
            iterate(method, batch, optimizer, schedule, step)
    return method
