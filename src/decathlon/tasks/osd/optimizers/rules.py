"""Update rules of one tensor: from its gradient and its state to a direction ``U``; the tensor then moves by ``-lr U``.

The same rules serve a whole weight (n, m), its projection (k, m), and the projection matrix (n, k). A rule keeps its
numbers as plain tensors in a dict that it is given, under names that begin with a prefix.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decathlon.tasks.osd.optimizers.quantised import dequantise, is_small, quantise

State = dict[str, Any]


class Rule(ABC):
    """attributes:
    betas: the usual ones. eps: the usual one.
    """

    betas: ClassVar[tuple[float, float]] = (0.0, 0.0)
    eps: ClassVar[float] = 0.0

    @abstractmethod
    def start(self, state: State, prefix: str, like: Tensor) -> None:
        """Put the state of a tensor that looks ``like`` this into ``state``."""

    @abstractmethod
    def direction(self, state: State, prefix: str, gradient: Tensor, step: int) -> Tensor:
        """Take the gradient of step number ``step``, from 1, into the state; the direction, a new tensor."""

    def turn(self, state: State, prefix: str, rotation: Tensor) -> None:
        """Express the first moment (k, m), if there is one in full precision, in other coordinates: (k, k) times it."""
        if f"{prefix}exp_avg" in state:
            state[f"{prefix}exp_avg"] = rotation @ state[f"{prefix}exp_avg"]


@dataclass(frozen=True)
class Adam(Rule):
    """``M / (sqrt(V) + eps) * sqrt(1 - b2^t) / (1 - b1^t)``: eps is added before the bias is corrected.

    ``corrected``: after it, as torch and bitsandbytes have it.
    """

    b1: float
    b2: float
    small: float
    corrected: bool = False
    betas: ClassVar = (0.9, 0.999)
    eps: ClassVar = 1e-6

    def start(self, state: State, prefix: str, like: Tensor) -> None:
        state[f"{prefix}exp_avg"], state[f"{prefix}exp_avg_sq"] = torch.zeros_like(like), torch.zeros_like(like)

    def direction(self, state: State, prefix: str, gradient: Tensor, step: int) -> Tensor:
        first, second = state[f"{prefix}exp_avg"], state[f"{prefix}exp_avg_sq"]
        return self._direction(first, second, gradient, step)

    def _direction(self, first: Tensor, second: Tensor, gradient: Tensor, step: int) -> Tensor:
        first.lerp_(gradient, 1 - self.b1)
        second.mul_(self.b2).addcmul_(gradient, gradient, value=1 - self.b2)
        bias = math.sqrt(1 - self.b2**step)
        small = self.small * bias if self.corrected else self.small
        # Both divided by the factor of the corrections: no pass of its own for it.
        factor = (1 - self.b1**step) / bias
        return first / second.sqrt().add_(small).mul_(factor)


@dataclass(frozen=True)
class Adam8bit(Adam):
    """Adam with moments in 8 bits, in blocks of 256; tensors of fewer than 4096 elements keep 32."""

    eps: ClassVar = 1e-8

    def start(self, state: State, prefix: str, like: Tensor) -> None:
        if is_small(like.numel()):
            super().start(state, prefix, like)
            return
        for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
            self._keep(state, f"{prefix}{name}", torch.zeros_like(like), signed)

    def direction(self, state: State, prefix: str, gradient: Tensor, step: int) -> Tensor:
        if f"{prefix}exp_avg" in state:
            return super().direction(state, prefix, gradient, step)
        first = self._read(state, f"{prefix}exp_avg", True, gradient)
        second = self._read(state, f"{prefix}exp_avg_sq", False, gradient)
        direction = self._direction(first, second, gradient, step)
        self._keep(state, f"{prefix}exp_avg", first, True)
        self._keep(state, f"{prefix}exp_avg_sq", second, False)
        return direction

    @staticmethod
    def _keep(state: State, name: str, values: Tensor, signed: bool) -> None:
        state[f"{name}_codes"], state[f"{name}_scale"] = quantise(values, signed)

    @staticmethod
    def _read(state: State, name: str, signed: bool, like: Tensor) -> Tensor:
        return dequantise(state[f"{name}_codes"], state[f"{name}_scale"], signed, like.shape).to(like.dtype)


@dataclass(frozen=True)
class Lion(Rule):
    """``sign((1 - b1) G + b1 M)``; then ``M = (1 - b2) G + b2 M``.

    ``signed`` is off where the sign is taken elsewhere.
    """

    b1: float
    b2: float
    small: float
    signed: bool = True
    betas: ClassVar = (0.9, 0.99)

    def start(self, state: State, prefix: str, like: Tensor) -> None:
        state[f"{prefix}exp_avg"] = torch.zeros_like(like)

    def direction(self, state: State, prefix: str, gradient: Tensor, step: int) -> Tensor:
        first = state[f"{prefix}exp_avg"]
        direction = first.lerp(gradient, 1 - self.b1)
        first.lerp_(gradient, 1 - self.b2)
        return direction.sign_() if self.signed else direction


@dataclass(frozen=True)
class Adafactor(Rule):
    """Second moments as row and column means, ``beta2_t = 1 - t^-0.8``; the update's root mean square is at most 1.

    No first moment, no relative step, no scaling by the parameter (Shazeer and Stern 2018).
    """

    b1: float
    b2: float
    small: float
    eps: ClassVar = 1e-30

    def start(self, state: State, prefix: str, like: Tensor) -> None:
        if like.ndim < 2:
            state[f"{prefix}exp_avg_sq"] = torch.zeros_like(like)
        else:
            state[f"{prefix}exp_avg_sq_row"] = like.new_zeros(like.shape[:-1])
            state[f"{prefix}exp_avg_sq_col"] = like.new_zeros((*like.shape[:-2], like.shape[-1]))

    def direction(self, state: State, prefix: str, gradient: Tensor, step: int) -> Tensor:
        rest = step**-0.8  # 1 - beta2
        square = gradient.square().add_(self.small)
        if gradient.ndim < 2:
            mean = state[f"{prefix}exp_avg_sq"].lerp_(square, rest)
            direction = gradient * mean.rsqrt()
        else:
            row = state[f"{prefix}exp_avg_sq_row"].lerp_(square.mean(dim=-1), rest)
            column = state[f"{prefix}exp_avg_sq_col"].lerp_(square.mean(dim=-2), rest)
            by_row = (row / row.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
            direction = gradient * by_row * column.rsqrt().unsqueeze(-2)
        return direction.div_(direction.square().mean().sqrt().clamp_min(1.0))


@dataclass(frozen=True)
class Momentum(Rule):
    """``M = (1 - b1) G + b1 M``; the direction is M."""

    b1: float
    b2: float
    small: float
    betas: ClassVar = (0.9, 0.0)

    def start(self, state: State, prefix: str, like: Tensor) -> None:
        state[f"{prefix}exp_avg"] = torch.zeros_like(like)

    def direction(self, state: State, prefix: str, gradient: Tensor, step: int) -> Tensor:
        return state[f"{prefix}exp_avg"].lerp_(gradient, 1 - self.b1).clone()


@dataclass(frozen=True)
class SGD(Rule):
    """The gradient itself; no state."""

    b1: float
    b2: float
    small: float

    def start(self, state: State, prefix: str, like: Tensor) -> None:
        """Nothing to keep."""

    def direction(self, state: State, prefix: str, gradient: Tensor, step: int) -> Tensor:
        return gradient.clone()


RULES: dict[str, type[Any]] = {
    "adam": Adam,
    "adam8bit": Adam8bit,
    "lion": Lion,
    "adafactor": Adafactor,
    "momentum": Momentum,
    "sgd": SGD,
}


def check_rule(name: str, what: str) -> None:
    """Raises ValueError, in one line, for an unknown rule."""
    if name not in RULES:
        raise ValueError(f"{what}={name} is unknown; choose {', '.join(RULES)}")


def rule(name: str, betas: tuple[float, float] | None = None, eps: float | None = None, **more: Any) -> Rule:
    """The rule of a name, with its usual ``betas`` and ``eps`` unless they are given."""
    kind = RULES[name]
    b1, b2 = kind.betas if betas is None else betas
    return kind(float(b1), float(b2), float(kind.eps if eps is None else eps), **more)
