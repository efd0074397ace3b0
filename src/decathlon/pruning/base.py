"""What every pruner is: it chooses k of n samples before an epoch and sees losses after a batch."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


def kept(n: int, prune: float) -> int:
    """How many of ``n`` samples stay when the share ``prune`` is dropped: floor((1 - prune) n), at least 1.

    The small constant guards against 1 - 0.9 = 0.0999...: ten samples at 0.9 keep one.

    Raises:
        ValueError: ``prune`` is no number in [0, 1), or ``n`` < 2.
    """
    if isinstance(prune, bool) or not isinstance(prune, int | float) or not 0 <= prune < 1:
        raise ValueError(f"prune={prune!r} is not a share of dropped samples; give a number from 0 up to below 1")
    if n < 2:
        raise ValueError(f"a training set of {n} samples cannot be pruned; at least 2 are needed")
    return max(1, math.floor((1 - prune) * n + 1e-9))


def largest(score: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """Positions (k,) int64 of the k largest of ``score`` (n,), ascending; ties are broken at random.

    Raises:
        ValueError: a score is NaN, which has no rank.
    """
    score = score.detach().cpu()
    if score.dtype in (torch.float16, torch.bfloat16):
        score = score.float()  # NumPy knows no bfloat16
    if torch.isnan(score).any():
        raise ValueError("a score is NaN; a loss diverged or an input holds NaN")
    n = len(score)
    if k >= n:
        return torch.arange(n)
    threshold = float(np.partition(score.numpy(), n - k)[n - k])  # some 40 times as fast as kthvalue
    above = score > threshold
    ties = (score == threshold).nonzero().flatten()
    missing = k - int(above.sum())
    above[ties[torch.randperm(len(ties), generator=generator)[:missing]]] = True
    return above.nonzero().flatten()


def positions(indices: Tensor, n: int) -> Tensor:
    """``indices`` on the CPU, after a check that they are positions in a set of n: (B,) int64.

    Raises:
        ValueError: they are no whole numbers from 0 to n - 1 in one row. Negative ones do not count from the end.
    """
    at = torch.as_tensor(indices).detach().cpu()
    if at.is_floating_point() or at.is_complex() or at.dtype == torch.bool or at.dim() != 1:
        raise ValueError(f"positions must be whole numbers of shape (B,); got {at.dtype} of shape {tuple(at.shape)}")
    if len(at) and (int(at.min()) < 0 or int(at.max()) >= n):
        wrong = at.min() if int(at.min()) < 0 else at.max()
        raise ValueError(f"the position {int(wrong)} is none of a set of {n} samples; they are 0 to {n - 1}")
    return at.long()


def _per_sample(what: str, values: Tensor, at: Tensor) -> Tensor:
    values = values.detach().to("cpu", torch.float32)
    if values.shape != at.shape:
        shape = tuple(values.shape)
        raise ValueError(f"{len(at)} samples need {what} of shape ({len(at)},), one each; got shape {shape}")
    return values


def choose(among: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k different entries of ``among`` (m,), uniformly at random: (k,)."""
    return among[torch.randperm(len(among), generator=generator)[:k]]


class Pruner:
    """Chooses which samples the next epoch trains on.

    The loop of anybody's training: ``indices, weights = pruner.select()`` before an epoch, then after each
    batch ``pruner.update(batch_indices, online_loss)``, with the loss of a reference model as third argument
    where ``wants_reference`` is set. ``indices`` is ascending: shuffle it.

    Args:
        n: number of training samples, at least 2.
        prune: share of them that an epoch leaves out, in [0, 1).
        generator: the pruner's own source of randomness; seeded with 0 when left out.

    Attributes:
        k: number of samples that an epoch trains on.
        wants_reference: ``update`` needs the losses of a reference model.
        beta: share of the reference that stays at a step.
        score_mode: ``train`` takes the losses as training does, with dropout; ``eval`` without it.
        wants_rescoring: all samples are to be shown to ``observe`` before each selection.
        wants_evidence: the pruner is built from what a trained model says of the samples (``evidence=``).
        varies: the number of selected samples changes between epochs.
        count: (n,) int64, how often each sample was trained on.
    """

    wants_reference: ClassVar[bool] = False
    wants_evidence: ClassVar[bool] = False
    beta: float = 0.5
    score_mode: str = "train"
    wants_rescoring: bool = False
    varies: bool = False
    per_sample: ClassVar[tuple[str, ...]] = ()  # names of the (n,) tensors that update() writes by sample

    def __init__(self, n: int, prune: float = 0.6, generator: torch.Generator | None = None) -> None:
        self.k = kept(n, prune)
        self.n = int(n)
        self.prune = float(prune)
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.count = torch.zeros(self.n, dtype=torch.int64)
        self.epoch = 0

    def select(self) -> tuple[Tensor, Tensor]:
        """Positions (k,) int64 and loss weights (k,) float32 of the samples to train on in the next epoch."""
        indices, weights = self._select()
        self.epoch += 1
        return indices, torch.ones(len(indices)) if weights is None else weights

    def update(self, batch_indices: Tensor, online_loss: Tensor, reference_loss: Tensor | None = None) -> None:
        """Take note of a batch: positions (B,) and the samples' losses (B,), before the optimiser's step.

        Raises:
            ValueError: the positions are none of this training set, there is not one loss for each, a loss is NaN or
                infinite, or the reference losses are missing. Nothing has changed then.
        """
        self.observe(batch_indices, online_loss, reference_loss)
        at = batch_indices.detach().cpu().long()
        self.count.index_add_(0, at, torch.ones_like(at))

    def observe(self, batch_indices: Tensor, online_loss: Tensor, reference_loss: Tensor | None = None) -> None:
        """As ``update``, for samples that are only scored and not trained on."""
        at = positions(batch_indices, self.n)
        online = _per_sample("losses", online_loss, at)
        reference = None if reference_loss is None else _per_sample("reference losses", reference_loss, at)
        if self.wants_reference and reference is None:
            raise ValueError(f"{type(self).__name__}.update needs the losses of the reference model")
        total = online.sum() if reference is None else online.sum() + reference.sum()
        if not math.isfinite(total.item()):
            raise ValueError("a training loss is NaN or infinite; the samples cannot be ranked by it")
        self._update(at, online, reference)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the coming selections depend on, as tensors and numbers."""
        state: dict[str, Any] = {name: getattr(self, name).clone() for name in ("count", *self.per_sample)}
        return {**state, "epoch": self.epoch, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        for name in ("count", *self.per_sample):
            if len(state[name]) != self.n:
                raise ValueError(f"the pruner's state is of {len(state[name])} samples, not of {self.n}")
            getattr(self, name).copy_(state[name])
        self.epoch = int(state["epoch"])
        self.generator.set_state(state["generator"])

    def _select(self) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError

    def _update(self, at: Tensor, online: Tensor, reference: Tensor | None) -> None:
        """Write the per-sample state of a batch. Static pruners have none."""
