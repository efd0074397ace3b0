"""Learning rates as functions of the step: factors of the highest rate, for a loop of one's own or ``LambdaLR``."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
SHAPES = ("constant", "linear", "cosine")


def schedule(shape: str, steps: int, warmup: int = 0, end: float = 0.0, first: int = 1) -> Schedule:
    """A linear warm-up from 0, then ``shape`` down to ``end``.

    Step k of the warm-up W has the factor ``(k + first) / W``. Afterwards, with the progress
    ``t = (k - W) / (steps - W)``, capped at 1: constant 1; linear ``1 - t (1 - end)``; cosine
    ``end + (1 - end) (1 + cos(pi t)) / 2``.

    Args:
        shape: constant, linear or cosine.
        steps: T, at which the factor is ``end``. warmup: W, in steps.
        end: the last factor. first: 0: step 0 has the factor 0. 1: step W - 1 has the factor 1.

    Raises:
        ValueError: in one line, an unknown shape, a warm-up that is no part of the steps, a negative end.
    """
    if shape not in SHAPES:
        raise ValueError(f"schedule={shape} is unknown; choose {', '.join(SHAPES)}")
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if not 0 <= warmup < max(steps, 1) and warmup != 0:
        raise ValueError(f"warmup={warmup} must be from 0 to steps - 1 = {steps - 1}")
    if end < 0:
        raise ValueError(f"the end={end} of a schedule must not be negative")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + first) / warmup
        progress = min(1.0, (step - warmup) / (steps - warmup))
        if shape == "constant":
            return 1.0
        if shape == "linear":
            return 1 - progress * (1 - end)
        return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2

    return factor
