"""Learning rates as functions of the step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from decathlon.errors import ConfigError

Schedule = Callable[[int], float]


def cosine_with_warmup(steps: int, lr: float, lr_end: float, warmup: int | None = None) -> Schedule:
    """Linear warm-up from 0, then a cosine from ``lr`` to ``lr_end`` (ConFIG's PINN experiments).

    ``k < W: lr k/W``, so step 0 has learning rate 0; then
    ``lr (1 - (1 - (cos(pi (k - W)/(T - W)) + 1)/2)(1 - lr_end/lr))``.

    Args:
        steps: T; step T has ``lr_end``.
        lr, lr_end: highest and last learning rate.
        warmup: W; min(100, 1 % of the steps) by default.

    Raises:
        ValueError: ``steps`` is not positive, or a learning rate is.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if not (lr > 0 and lr_end >= 0):
        raise ValueError(f"lr={lr} must be positive and lr_end={lr_end} must not be negative")
    width = min(100, steps // 100) if warmup is None else warmup
    if not 0 <= width < steps:
        raise ValueError(f"warmup={width} must be from 0 to steps - 1 = {steps - 1}")

    def rate(step: int) -> float:
        if step < width:
            return lr * step / width
        progress = min(1.0, (step - width) / (steps - width))
        return lr * (1 - (1 - (math.cos(math.pi * progress) + 1) / 2) * (1 - lr_end / lr))

    return rate


def constant(lr: float) -> Schedule:
    """The same learning rate at every step."""
    return lambda step: lr


def make_schedule(dataset: Mapping[str, Any], lr: float, lr_end: float, steps: int) -> Schedule:
    """The learning rate by step: the paper's warm-up and cosine, or a constant (``schedule: constant``).

    Raises:
        ConfigError: the dataset config names another schedule.
    """
    kind = dataset.get("schedule", "cosine")
    if kind not in ("cosine", "constant"):
        raise ConfigError(f"schedule={kind}: choose cosine or constant")
    return constant(float(lr)) if kind == "constant" else cosine_with_warmup(steps, float(lr), float(lr_end))
