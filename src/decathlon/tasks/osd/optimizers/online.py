"""Online Subspace Descent (arXiv 2408.12857, Algorithm 1)."""

import math
from typing import Any

from torch import Tensor

from decathlon.tasks.osd.optimizers.base import Group, ProjectedOptimizer
from decathlon.tasks.osd.optimizers.rules import State, check_rule, rule
from decathlon.tasks.osd.optimizers.shards import summed
from decathlon.tasks.osd.pca import gradient_of_projected
from decathlon.tasks.osd.subspaces import AT_RANDOM, check_start

# What the published code does otherwise than the paper. None as an option of the optimizer: the variant's.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"lam": 0.1, "p_schedule": "alpha", "p_weight_decay": None, "lion_sign": "subspace"},
    "official": {"lam": 0.0, "p_schedule": "gap", "p_weight_decay": 0.01, "lion_sign": "lifted"},
}
CHOICES = {
    "p_schedule": ("alpha", "gap"),
    "lion_sign": ("subspace", "lifted"),
    "alpha_scaling": ("none", "rsqrt_n"),
}
_REFERENCE_WIDTH = 512  # of the smallest model of the paper


class OnlineSubspaceDescent(ProjectedOptimizer):
    """Moments in a subspace that moves a little at every step, by one optimizer step on the loss of online PCA.

    P starts at ``init`` and, after each step of W, makes one step of its own rule ``p_optimizer`` down the gradient of
    ``||P P' N - N||^2 + lam ||P' P - I||^2``, N = G / ||G||. No SVD after the first step, and none at all with
    ``init="qr"``. A gradient of zero leaves P where it is.

    State per matrix: P (n k), the inner rule's moments (k m each), the state of P's rule (n k each).

    Args:
        params, lr, inner, betas, eps, weight_decay, scale, moments, seed: as in ``ProjectedOptimizer``. The paper has
            lr 0.01 or 0.001 and scale 0.25; for ``inner="lion"`` its lr is 1e-4.
        p_optimizer: the rule of P, one of the same; ``adam`` in the paper, ``sgd`` for 7B.
        variant: ``paper`` or ``official`` (the published code): what lam, p_schedule, p_weight_decay and lion_sign are
            unless they are given.
        alpha: the learning rate of P is ``alpha lr`` (``p_schedule="alpha"``).
        gap: with ``p_schedule="gap"`` it is ``1 / gap`` times the present lr over the one that the optimizer was made
            with, whatever that is.
        lam: of the orthonormality term. p_weight_decay: decoupled, of P; None in the paper variant: that of W.
        p_betas: of P's rule; None: its usual ones.
        alpha_scaling: ``rsqrt_n`` multiplies P's learning rate by sqrt(512 / n): entries of P are of size 1/sqrt(n),
            and Adam moves each by the learning rate, so alpha does not carry over from width to width by itself.
        init: ``svd``, ``eigh``, ``randomized`` (of the first gradient; P then first moves at the second step) or ``qr``
            (a random subspace, which moves from the first step on).
        update_every: P moves at every so many-th step.
        reproject_moments: after P moved, the first moment becomes ``(P_new' P_old) M``.
        lion_sign: Lion's sign is taken in the ``subspace``, ``P sign(N)``, or after it was ``lifted``, ``sign(P N)``,
            for which ``scale`` does nothing.

    Raises:
        ValueError: one line, for options that cannot be.
    """

    def __init__(
        self, params: Any, lr: float = 0.01, *, inner: str = "adam", p_optimizer: str = "adam", variant: str = "paper",
        alpha: float = 5.0, gap: float = 200.0, lam: float | None = None, scale: float = 0.25,
        betas: tuple[float, float] | None = None, eps: float | None = None, weight_decay: float = 0.0,
        p_schedule: str | None = None, p_weight_decay: float | None = None, p_betas: tuple[float, float] | None = None,
        alpha_scaling: str = "none", init: str = "svd", update_every: int = 1, reproject_moments: bool = False,
        lion_sign: str | None = None, moments: str = "float32", seed: int = 0,
    ) -> None:  # fmt: skip
        if variant not in VARIANTS:
            raise ValueError(f"variant={variant} is unknown; choose {', '.join(VARIANTS)}")
        given = {"lam": lam, "p_schedule": p_schedule, "p_weight_decay": p_weight_decay, "lion_sign": lion_sign}
        chosen = {name: VARIANTS[variant][name] if value is None else value for name, value in given.items()}
        if p_optimizer != "adam" and p_weight_decay is None and variant == "official":
            chosen["p_weight_decay"] = 0.0  # only torch's AdamW brings a decay of its own
        options = {
            "lr": lr, "inner": inner, "p_optimizer": p_optimizer, "alpha": alpha, "gap": gap, "scale": scale,
            "betas": betas, "eps": eps, "weight_decay": weight_decay, "p_betas": p_betas, "moments": moments,
            "alpha_scaling": alpha_scaling, "init": init, "update_every": update_every, "seed": seed,
            "reproject_moments": reproject_moments,
        }  # fmt: skip
        super().__init__(params, {**options, **chosen})

    def _check(self, group: Group) -> None:
        super()._check(group)
        check_rule(group["p_optimizer"], "p_optimizer")
        check_start(group["init"])
        for name, choices in CHOICES.items():
            if group[name] not in choices:
                raise ValueError(f"{name}={group[name]} is unknown; choose {', '.join(choices)}")
        for name in ("alpha", "lam", "p_weight_decay"):
            if group[name] is not None and not 0 <= float(group[name]) < math.inf:
                raise ValueError(f"{name}={group[name]} must be a number that is not negative")
        if not 0 < float(group["gap"]) < math.inf or int(group["update_every"]) < 1:
            raise ValueError(f"gap={group['gap']} and update_every={group['update_every']} must be at least 1")
        if group["p_schedule"] == "gap" and not float(group["lr"]) > 0:
            raise ValueError("p_schedule=gap needs a positive lr: the rate of P is relative to it")
        if group["reproject_moments"] and group["inner"] not in ("adam", "lion", "momentum"):
            raise ValueError(
                f"reproject_moments needs a first moment in full precision, which {group['inner']} has not"
            )

    def p_lr(self, group: Group, n: int) -> float:
        """The learning rate of the projections (n, k) of a group, at its present lr."""
        lr = float(group["lr"])
        rate = lr * group["alpha"] if group["p_schedule"] == "alpha" else lr / group["peak_lr"] / group["gap"]
        return rate * math.sqrt(_REFERENCE_WIDTH / n) if group["alpha_scaling"] == "rsqrt_n" else rate

    def _aim(self, p: Tensor, gradient: Tensor, group: Group, state: State) -> None:
        if "projection" not in state:
            key = (group["seed"], self._index(p), 0)
            state["projection"] = self._subspace(group["init"], p, gradient, group, key)
            state["p_step"] = 0
            self._p_rule(group).start(state, "p_", state["projection"])

    def _p_rule(self, group: Group) -> Any:
        more = {"corrected": True} if group["p_optimizer"] in ("adam", "adam8bit") else {}
        return rule(group["p_optimizer"], group["p_betas"], 1e-8 if more else None, **more)

    def _inner(self, group: Group) -> Any:
        lifted = group["inner"] == "lion" and group["lion_sign"] == "lifted" and group["rank"] is not None
        return rule(group["inner"], group["betas"], group["eps"], **({"signed": False} if lifted else {}))

    def _apply(
        self, weight: Tensor, group: Group, state: State, gradient: Tensor, projected: Tensor, direction: Tensor
    ) -> None:
        if group["inner"] == "lion" and group["lion_sign"] == "lifted":
            self._step_whole(weight, group, (state["projection"] @ direction).sign_(), 1.0)
        else:
            super()._apply(weight, group, state, gradient, projected, direction)

    def _move(
        self, p: Tensor, group: Group, state: State, gradient: Tensor, projected: Tensor, norm: float, fresh: bool
    ) -> None:
        # P of the first gradient is at the optimum for it.
        first = fresh and group["init"] not in AT_RANDOM
        if first or norm == 0 or (state["step"] - 1) % int(group["update_every"]):
            return
        projection: Tensor = state["projection"]
        before = projection.clone() if group["reproject_moments"] else None
        slope = gradient_of_projected(
            projection, gradient, projected / norm, norm, float(group["lam"]), lambda part: summed(part, p)
        )
        state["p_step"] += 1
        direction = self._p_rule(group).direction(state, "p_", slope, state["p_step"])
        lr, decay = self.p_lr(group, len(projection)), group["p_weight_decay"]
        decay = float(group["weight_decay"] if decay is None else decay)
        projection.mul_(1 - lr * decay).add_(direction, alpha=-lr)
        if before is not None:
            self._inner(group).turn(state, "", projection.mT @ before)
