"""The neighbours: GaLore and its frozen and random subspaces, Fira, APOLLO, and no subspace at all."""

import math
from typing import Any

import torch
from torch import Tensor

from decathlon.randomness import generator
from decathlon.tasks.osd.optimizers.base import Group, ProjectedOptimizer
from decathlon.tasks.osd.optimizers.rules import State
from decathlon.tasks.osd.subspaces import check_start

_GROWTH = 1.01  # of an update's norm from one step to the next, at most (Fira's limiter)
_TINY = 1e-8


class FullRank(ProjectedOptimizer):
    """The inner rules without any subspace, for all parameters: the full-rank baselines.

    Raises:
        ValueError: one line, also for a group with a rank.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, *, inner: str = "adam", betas: tuple[float, float] | None = None,
        eps: float | None = None, weight_decay: float = 0.0, moments: str = "float32",
    ) -> None:  # fmt: skip
        options = {"lr": lr, "inner": inner, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "moments": moments, "scale": 1.0})

    def _check(self, group: Group) -> None:
        super()._check(group)
        if group["rank"] is not None:
            raise ValueError(f"rank={group['rank']}: this optimizer projects nothing; give it groups without rank")


class GaLore(ProjectedOptimizer):
    """The projection is found anew from the gradient of every ``gap``-th step and stands still in between.

    Zhao et al., *GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection* (ICML 2024). The moments stay
    as they are when it changes.

    Args:
        params, lr, inner, betas, eps, weight_decay, scale, moments, seed: as in ``ProjectedOptimizer``.
        gap: steps between two refreshes, the first one at the first step; None: a subspace that is found once.
        refresh: ``svd``, ``eigh``, ``randomized``, or ``qr``: a random subspace.

    Raises:
        ValueError: one line, for options that cannot be.
    """

    def __init__(
        self, params: Any, lr: float = 0.01, *, gap: int | None = 200, refresh: str = "svd", inner: str = "adam",
        scale: float = 0.25, betas: tuple[float, float] | None = None, eps: float | None = None,
        weight_decay: float = 0.0, moments: str = "float32", seed: int = 0,
    ) -> None:  # fmt: skip
        options = {
            "lr": lr, "gap": gap, "refresh": refresh, "inner": inner, "scale": scale, "betas": betas, "eps": eps,
            "weight_decay": weight_decay, "moments": moments, "seed": seed,
        }  # fmt: skip
        super().__init__(params, options)

    def _check(self, group: Group) -> None:
        super()._check(group)
        check_start(group["refresh"], "refresh")
        _check_gap(group["gap"])

    def _aim(self, p: Tensor, gradient: Tensor, group: Group, state: State) -> None:
        if _is_due(state, group["gap"]):
            key = (group["seed"], self._index(p), state["step"] - 1)
            state["projection"] = self._subspace(group["refresh"], p, gradient, group, key)


class Fira(GaLore):
    """GaLore plus what the subspace leaves of the gradient, ``G - P P' G``, scaled as the inner rule scales the rest.

    Chen et al., *Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?* (2024): column j of the
    residual is multiplied by ``||U_j|| / ||R_j||``, and its norm may grow by 1 % a step at most.
    """

    shardable = False

    def _apply(
        self, weight: Tensor, group: Group, state: State, gradient: Tensor, projected: Tensor, direction: Tensor
    ) -> None:
        super()._apply(weight, group, state, gradient, projected, direction)
        residual = torch.addmm(gradient, state["projection"], projected, alpha=-1)
        residual.mul_(_column_factors(direction, projected))
        _limit_growth(residual, state)
        weight.add_(residual, alpha=-float(group["lr"]) * float(group["scale"]))


class Apollo(ProjectedOptimizer):
    """The whole gradient, scaled as Adam would scale it, of which a random projection gives an estimate.

    Zhu et al., *APOLLO: SGD-like Memory, AdamW-level Performance* (MLSys 2025): column j of G is multiplied by
    ``||U_j|| / ||R_j||``, R = P' G with Gaussian P; for APOLLO-Mini (``per="tensor"``, rank 1) all of G by one such
    factor. The norm of an update may grow by 1 % a step at most.

    Args:
        params, lr, inner, betas, eps, weight_decay, moments, seed: as in ``ProjectedOptimizer``.
        scale: factor of the updates; the paper has 1, and sqrt(128) for APOLLO-Mini.
        gap: steps between two draws of P. per: ``column`` or ``tensor``.

    Raises:
        ValueError: one line, for options that cannot be.
    """

    shardable = False

    def __init__(
        self, params: Any, lr: float = 0.01, *, gap: int | None = 200, per: str = "column", inner: str = "adam",
        scale: float = 1.0, betas: tuple[float, float] | None = None, eps: float | None = None,
        weight_decay: float = 0.0, moments: str = "float32", seed: int = 0,
    ) -> None:  # fmt: skip
        options = {
            "lr": lr, "gap": gap, "per": per, "inner": inner, "scale": scale, "betas": betas, "eps": eps,
            "weight_decay": weight_decay, "moments": moments, "seed": seed,
        }  # fmt: skip
        super().__init__(params, options)

    def _check(self, group: Group) -> None:
        super()._check(group)
        _check_gap(group["gap"])
        if group["per"] not in ("column", "tensor"):
            raise ValueError(f"per={group['per']} is unknown; choose column or tensor")

    def _aim(self, p: Tensor, gradient: Tensor, group: Group, state: State) -> None:
        if _is_due(state, group["gap"]):
            rank = min(group["rank"], len(gradient))
            key = ("gaussian", group["seed"], self._index(p), state["step"] - 1)
            drawn = torch.randn(len(gradient), rank, generator=generator(*key)) / math.sqrt(rank)
            state["projection"] = drawn.to(gradient)

    def _apply(
        self, weight: Tensor, group: Group, state: State, gradient: Tensor, projected: Tensor, direction: Tensor
    ) -> None:
        if group["per"] == "column":
            factors = _column_factors(direction, projected)
        else:
            factors = torch.linalg.vector_norm(direction) / (torch.linalg.vector_norm(projected) + _TINY)
        update = gradient * factors
        _limit_growth(update, state)
        self._step_whole(weight, group, update, float(group["scale"]))


def _is_due(state: State, gap: int | None) -> bool:
    """Whether the projection is to be found now: at the first step, and with a gap at every so many-th after it."""
    return "projection" not in state or (gap is not None and (state["step"] - 1) % int(gap) == 0)


def _check_gap(gap: Any) -> None:
    if gap is not None and not (float(gap).is_integer() and gap >= 1):
        raise ValueError(f"gap={gap} must be a whole number of steps, at least 1, or None: never")


def _column_factors(direction: Tensor, projected: Tensor) -> Tensor:
    """``||U_j|| / ||R_j||`` for each column: (m,)."""
    return torch.linalg.vector_norm(direction, dim=0) / (torch.linalg.vector_norm(projected, dim=0) + _TINY)


def _limit_growth(update: Tensor, state: State) -> None:
    """Shrink an update whose norm is more than 1.01 of the last one's."""
    norm = torch.linalg.vector_norm(update)
    if "update_norm" in state:
        most = state["update_norm"] * _GROWTH
        factor = torch.where((norm > most) & (most > 0), most / norm.clamp_min(torch.finfo(norm.dtype).tiny), 1.0)
        update.mul_(factor)
        norm = norm * factor
    state["update_norm"] = norm.clone()
