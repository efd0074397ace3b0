"""Loss weightings: one number for each loss; the update is the gradient of the weighted sum."""

import warnings
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.pinn.operators.base import Seeded
from decathlon.tasks.pinn.weighting import Learned, Weighting

__all__ = ["DWA", "FAMO", "LRA", "LS", "RLW", "SI", "UW", "MinMax", "ReLoBRaLo", "Weighting"]


class LS(Weighting):
    """Linear scalarisation, the plain sum: ``w_i = 1``. With Adam, the paper's baseline."""

    by_place = False

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        return torch.ones_like(losses)


class SI(Weighting):
    """Scale-invariant: the loss is ``sum_i log L_i``, so ``w_i = 1/L_i``. Losses must be positive."""

    by_place = False
    least = 0.0

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        return 1 / losses


class RLW(Seeded, Weighting):
    """Random loss weighting (Lin et al., TMLR 2022): ``w = softmax(z)``, z normal, new at each step."""

    by_place = False

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        return torch.randn(len(losses), generator=self.generator()).softmax(dim=0).to(losses)


class MinMax(Learned):
    """Min-max weighting (Liu & Wang 2021): the weights ascend the weighted loss.

    lambda (start 1) takes Adam steps up ``sum_i softmax(lambda)_i m L_i``, from the second step on; the
    weights are lambda itself, as in ConFIG's official code, or ``m softmax(lambda)``. Lambda itself can turn
    negative (losses 1 and 0.1: the second weight is -0.41 after 2000 steps), and the loss then ascends.

    Args:
        weight_lr: learning rate of the ascent.
        raw: weights are lambda (official) or m softmax(lambda).
    """

    start = 1.0

    def __init__(self, weight_lr: float = 1e-3, raw: bool = True) -> None:
        super().__init__(weight_lr)
        self.raw = raw

    state_names = ("started",)
    started = False

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        vector = self._vector(losses)
        if self.started:
            share = vector.value.softmax(dim=0)
            vector.descend(-len(losses) * share * (losses - (share * losses).sum()))
        self.started = True
        return vector.value.clone() if self.raw else len(losses) * vector.value.softmax(dim=0)


class UW(Learned):
    """Uncertainty weighting (Kendall et al., CVPR 2018): the loss is ``sum_i (exp(-s_i) L_i + s_i)/2``.

    ``w_i = exp(-s_i)/2``; s (start 0) follows its own gradient ``(1 - exp(-s_i) L_i)/2`` by Adam. The
    official CelebA trainer never updates s, which makes it the plain sum; here s is learned.

    Args:
        weight_lr: learning rate of s.
    """

    def __init__(self, weight_lr: float = 0.025) -> None:
        super().__init__(weight_lr)

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        vector = self._vector(losses)
        weights = 0.5 * torch.exp(-vector.value)
        vector.descend(0.5 - weights * losses)
        return weights


class FAMO(Learned):
    """Fast adaptive multitask optimisation (Liu et al., NeurIPS 2023).

    ``z = softmax(w)``, ``c = sum_i z_i/(L_i + 1e-8)``; the loss is ``sum_i z_i log(L_i + 1e-8)/c``, so the
    weights are ``z_i/(L_i + 1e-8)/c``. After the step w follows ``J^T (log L_before - log L_after)`` (J the
    Jacobian of softmax) by Adam with weight decay.

    Args:
        weight_lr: learning rate of w.
        gamma: weight decay of w.

    Losses must not be negative. In a loop of your own, after each step: ``weighting.after_step(losses)``.
    """

    needs_after_step = True
    least = 0.0
    epsilon = 1e-8

    def __init__(self, weight_lr: float = 0.025, gamma: float = 0.001) -> None:
        super().__init__(weight_lr, gamma)
        self._before: Tensor | None = None
        self._untold = 0

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        self._before = losses.clone()
        self._untold += 1
        if self._untold == 4:
            warnings.warn("FAMO learns from after_step(losses), which is not called: its weights stay", stacklevel=3)
        weights = self._vector(losses).value.softmax(dim=0) / (losses + self.epsilon)
        return weights / weights.sum()

    def after_step(self, losses: Any) -> None:
        if self._before is None:
            raise ValueError("FAMO.after_step was called before its weights were")
        losses = self._checked(losses)
        self._untold = 0
        vector = self._vector(losses)
        drop = (self._before + self.epsilon).log() - (losses + self.epsilon).log()
        share = vector.value.softmax(dim=0)
        vector.descend(share * (drop - (share * drop).sum()))


class LRA(Weighting):
    """Learning-rate annealing (Wang, Teng & Perdikaris 2021).

    ``lambda_i = beta lambda_i + (1 - beta) max|g_1|/mean|g_i|`` for i > 1, start 1; ``lambda_1 = 1``. The
    first loss is the PDE residual.

    Args:
        beta: 0.999 as in ConFIG's experiments (the weighter's own default there is 0.9).
    """

    needs_gradients = True
    state_names = ("weights",)

    def __init__(self, beta: float = 0.999) -> None:
        self.beta = beta
        self.weights: Tensor | None = None

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        assert gradients is not None
        if self.weights is None:
            self.weights = torch.ones_like(losses, dtype=torch.promote_types(gradients.dtype, torch.float32))
        weights = self.weights.to(gradients.device, copy=True)
        largest = torch.linalg.vector_norm(gradients[0], ord=torch.inf)
        mean = torch.linalg.vector_norm(gradients[1:], ord=1, dim=1, dtype=weights.dtype) / gradients.shape[1]
        # A loss without gradient keeps its weight.
        wanted = torch.where(mean > 0, largest / mean, weights[1:])
        weights[1:] = self.beta * weights[1:] + (1 - self.beta) * wanted
        self.weights = weights
        return weights.clone()


class ReLoBRaLo(Seeded, Weighting):
    """Relative loss balancing with random lookback (Bischof & Kraus 2021).

    ``w_local = m softmax(L_i/(tau L_i^previous))``, ``w_first = m softmax(L_i/(tau L_i^0))``;
    ``w = beta w_old + (1 - beta) w_local`` with w_old the last weights (probability ``lookback``) or w_first.
    The first weights are 1.

    Args:
        beta: memory.
        tau: temperature.
        lookback: probability (expected rho) of going on from the last weights.
        seed: of the draws.
    """

    state_names = ("calls", "weights", "first", "previous")

    def __init__(self, beta: float = 0.999, tau: float = 0.1, lookback: float = 0.999, seed: int = 0) -> None:
        super().__init__(seed)
        self.beta, self.tau, self.lookback = beta, tau, lookback
        self.weights: Tensor | None = None
        self.first: Tensor | None = None
        self.previous: Tensor | None = None

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        losses = losses.clone()
        if self.weights is None or self.first is None or self.previous is None:
            self.weights, self.first = torch.ones_like(losses), losses
        else:
            local = self._balance(losses, self.previous.to(losses))
            old = self.weights.to(losses)
            if float(torch.rand((), generator=self.generator())) >= self.lookback:
                old = self._balance(losses, self.first.to(losses))
            self.weights = self.beta * old + (1 - self.beta) * local
        self.previous = losses
        return self.weights.clone()

    def _balance(self, losses: Tensor, reference: Tensor) -> Tensor:
        return len(losses) * (losses / (self.tau * reference + 1e-12)).softmax(dim=0)


class DWA(Weighting):
    """Dynamic weight average (Liu et al., CVPR 2019), over iterations as in the FAMO code base.

    ``r_i`` = mean of L_i over the last ``window`` steps / mean over the window before; the weights of the m
    losses are ``m softmax(r/T)/m`` (the loss is the mean of w_i L_i), and 1/m until two windows are full.

    Args:
        window: number of steps.
        temperature: T.
    """

    state_names = ("history", "count")

    def __init__(self, window: int = 25, temperature: float = 2.0) -> None:
        self.window, self.temperature = window, temperature
        self.history: Tensor | None = None  # (2 window, m), a ring
        self.count = 0

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        if self.history is None:
            self.history = torch.zeros(2 * self.window, len(losses), dtype=losses.dtype, device=losses.device)
        self.history = self.history.to(losses)
        weights = torch.full_like(losses, 1 / len(losses))
        if self.count >= 2 * self.window:
            ordered = self.history.roll(-self.count, dims=0)  # oldest first
            new, old = ordered[self.window :].mean(dim=0), ordered[: self.window].mean(dim=0)
            ratio = torch.where((new == 0) & (old == 0), 1.0, new / old)  # a loss that stays at 0 is steady
            weights = (ratio / self.temperature).softmax(dim=0)
        self.history[self.count % (2 * self.window)] = losses
        self.count += 1
        return weights
