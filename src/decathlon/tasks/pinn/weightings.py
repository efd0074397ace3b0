"""Loss weightings: one number for each loss; the update is the gradient of the weighted sum."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.pinn.operators.base import Seeded, Stateful


class Weighting(Stateful):
    """Gives the weight of each loss: ``weights = weighting(losses)``, shapes (m,), detached.

    ``needs_gradients``: it must also be given the (m, N) gradients. ``needs_after_step``: after the
    optimizer's step ``after_step`` must be given the losses on the same batch again.
    """

    needs_gradients = False
    needs_after_step = False

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def after_step(self, losses: Tensor) -> None:
        """Learn from the losses after the step, on the same batch."""


class LS(Weighting):
    """Linear scalarisation, the plain sum: ``w_i = 1``. With Adam, the paper's baseline."""

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        return torch.ones_like(losses)


class SI(Weighting):
    """Scale-invariant: the loss is ``sum_i log L_i``, so ``w_i = 1/L_i``."""

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        return 1 / losses.detach()


class RLW(Seeded, Weighting):
    """Random loss weighting (Lin et al., TMLR 2022): ``w = softmax(z)``, z normal, new at each step."""

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        return torch.randn(len(losses), generator=self.generator()).softmax(dim=0).to(losses)


class _Ascent(Stateful):
    """Adam for a vector of weights, in the sign of a maximisation or a minimisation given by the gradient."""

    def __init__(self, start: Tensor, lr: float, weight_decay: float = 0.0) -> None:
        self.value, self.lr, self.weight_decay = start, lr, weight_decay
        self.first, self.second, self.count = torch.zeros_like(start), torch.zeros_like(start), 0

    state_names = ("value", "first", "second", "count")

    def descend(self, gradient: Tensor) -> None:
        """One Adam step (beta 0.9 and 0.999, eps 1e-8, L2 weight decay) down ``gradient``."""
        gradient = gradient + self.weight_decay * self.value
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first = self.first / (1 - 0.9**self.count)
        second = self.second / (1 - 0.999**self.count)
        self.value = self.value - self.lr * first / (second.sqrt() + 1e-8)


class _Learned(Weighting):
    """A weighting with a vector learned by Adam; it is made when the number of losses is known."""

    start = 0.0

    def __init__(self, weight_lr: float, weight_decay: float = 0.0) -> None:
        self.weight_lr, self.weight_decay = weight_lr, weight_decay
        self.learned: _Ascent | None = None

    def _vector(self, losses: Tensor) -> _Ascent:
        if self.learned is None:
            self.learned = _Ascent(torch.full_like(losses.detach(), self.start), self.weight_lr, self.weight_decay)
        elif self.learned.value.device != losses.device:
            for name in ("value", "first", "second"):
                setattr(self.learned, name, getattr(self.learned, name).to(losses.device))
        return self.learned

    def state_dict(self) -> dict[str, Any]:
        learned = {} if self.learned is None else self.learned.state_dict()
        return {**super().state_dict(), **learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own = {name: state[name] for name in self.state_names}
        super().load_state_dict(own)
        rest = {name: value for name, value in state.items() if name not in own}
        self.learned = None
        if rest:
            self.learned = _Ascent(rest["value"].clone(), self.weight_lr, self.weight_decay)
            self.learned.load_state_dict(rest)


class MinMax(_Learned):
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

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        losses = losses.detach()
        vector = self._vector(losses)
        if self.started:
            share = vector.value.softmax(dim=0)
            vector.descend(-len(losses) * share * (losses - (share * losses).sum()))
        self.started = True
        return vector.value.clone() if self.raw else len(losses) * vector.value.softmax(dim=0)


class UW(_Learned):
    """Uncertainty weighting (Kendall et al., CVPR 2018): the loss is ``sum_i (exp(-s_i) L_i + s_i)/2``.

    ``w_i = exp(-s_i)/2``; s (start 0) follows its own gradient ``(1 - exp(-s_i) L_i)/2`` by Adam. The
    official CelebA trainer never updates s, which makes it the plain sum; here s is learned.

    Args:
        weight_lr: learning rate of s.
    """

    def __init__(self, weight_lr: float = 0.025) -> None:
        super().__init__(weight_lr)

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        losses = losses.detach()
        vector = self._vector(losses)
        weights = 0.5 * torch.exp(-vector.value)
        vector.descend(0.5 - weights * losses)
        return weights


class FAMO(_Learned):
    """Fast adaptive multitask optimisation (Liu et al., NeurIPS 2023).

    ``z = softmax(w)``, ``c = sum_i z_i/(L_i + 1e-8)``; the loss is ``sum_i z_i log(L_i + 1e-8)/c``, so the
    weights are ``z_i/(L_i + 1e-8)/c``. After the step w follows ``J^T (log L_before - log L_after)`` (J the
    Jacobian of softmax) by Adam with weight decay.

    Args:
        weight_lr: learning rate of w.
        gamma: weight decay of w.
    """

    needs_after_step = True
    epsilon = 1e-8

    def __init__(self, weight_lr: float = 0.025, gamma: float = 0.001) -> None:
        super().__init__(weight_lr, gamma)
        self._before: Tensor | None = None

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        losses = losses.detach()
        self._before = losses.clone()
        weights = self._vector(losses).value.softmax(dim=0) / (losses + self.epsilon)
        return weights / weights.sum()

    def after_step(self, losses: Tensor) -> None:
        if self._before is None:
            raise ValueError("FAMO.after_step was called before its weights were")
        vector = self._vector(losses)
        drop = (self._before + self.epsilon).log() - (losses.detach() + self.epsilon).log()
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

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        if gradients is None:
            raise ValueError("LRA needs the gradients: weighting(losses, gradients)")
        if self.weights is None:
            self.weights = torch.ones(len(gradients), dtype=gradients.dtype, device=gradients.device)
        weights = self.weights.to(gradients.device)
        largest = torch.linalg.vector_norm(gradients[0], ord=torch.inf)
        mean = torch.linalg.vector_norm(gradients[1:], ord=1, dim=1) / gradients.shape[1]
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

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        losses = losses.detach().clone()
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

    def __call__(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        losses = losses.detach()
        if self.history is None:
            self.history = torch.zeros(2 * self.window, len(losses), dtype=losses.dtype, device=losses.device)
        self.history = self.history.to(losses.device)
        weights = torch.full_like(losses, 1 / len(losses))
        if self.count >= 2 * self.window:
            ordered = self.history.roll(-self.count, dims=0)  # oldest first
            ratio = ordered[self.window :].mean(dim=0) / ordered[: self.window].mean(dim=0)
            weights = (ratio / self.temperature).softmax(dim=0)
        self.history[self.count % (2 * self.window)] = losses
        self.count += 1
        return weights
