"""Dynamic pruning: a new selection every epoch, from the losses that training sees anyway.

A sample that was never trained on has the score +inf, so the first ceil(1 / (1 - prune)) epochs walk through
the whole training set; afterwards a sample keeps its last score until it is trained on again.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from decathlon.pruning.base import Pruner, choose, largest


class SoftRandom(Pruner):
    """A new uniform subset every epoch.

    Args:
        replacement: draw k times with replacement, which trains on n (1 - exp(-k/n)) different samples only.
    """

    def __init__(
        self,
        n: int,
        prune: float = 0.6,
        generator: torch.Generator | None = None,
        replacement: bool = False,
    ) -> None:
        super().__init__(n, prune, generator)
        self.replacement = replacement

    def _select(self) -> tuple[Tensor, None]:
        if self.replacement:
            return torch.randint(self.n, (self.k,), generator=self.generator).sort().values, None
        return torch.randperm(self.n, generator=self.generator)[: self.k].sort().values, None


class RankLoss(Pruner):
    """The samples whose last seen loss is largest."""

    per_sample: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(self, n: int, prune: float = 0.6, generator: torch.Generator | None = None) -> None:
        super().__init__(n, prune, generator)
        self.score = torch.full((self.n,), math.inf)

    def _select(self) -> tuple[Tensor, Tensor | None]:
        return largest(self.score, self.k, self.generator), None

    def _update(self, at: Tensor, online: Tensor, reference: Tensor | None) -> None:
        self.score[at] = online


class _LossAverage(Pruner):
    """Keeps for each sample a moving average of its loss and of the squared deviation from it."""

    per_sample: ClassVar[tuple[str, ...]] = ("mean", "variance")

    def __init__(
        self,
        n: int,
        prune: float = 0.6,
        generator: torch.Generator | None = None,
        decay: float = 0.8,
    ) -> None:
        super().__init__(n, prune, generator)
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} is not the share of an old average that stays; give 0 <= decay < 1")
        self.decay = decay
        self.mean = torch.full((self.n,), math.inf)
        self.variance = torch.zeros(self.n)

    def _update(self, at: Tensor, online: Tensor, reference: Tensor | None) -> None:
        old = self.mean[at]
        first = torch.isinf(old)
        deviation = torch.where(first, 0.0, online - old)
        self.mean[at] = torch.where(first, online, old + (1 - self.decay) * deviation)
        self.variance[at] = self.decay * self.variance[at] + (1 - self.decay) * deviation.square()


class EpsilonGreedy(_LossAverage):
    """The (1 - epsilon) k samples with the largest average loss and epsilon k others at random.

    Source: Raju, Daruwalla, Lipasti, "Accelerating Deep Learning with Dynamic Data Pruning" (2021). epsilon =
    0.1 and the decay of the average, 0.8, are reconstructed: MolPeg's paper does not state them.
    """

    def __init__(
        self,
        n: int,
        prune: float = 0.6,
        generator: torch.Generator | None = None,
        epsilon: float = 0.1,
        decay: float = 0.8,
    ) -> None:
        super().__init__(n, prune, generator, decay)
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon={epsilon} is not a share; give a number from 0 to 1")
        self.epsilon = epsilon

    def _select(self) -> tuple[Tensor, None]:
        explored = round(self.epsilon * self.k)
        greedy = largest(self.mean, self.k - explored, self.generator) if explored < self.k else torch.arange(0)
        rest = torch.ones(self.n, dtype=torch.bool)
        rest[greedy] = False
        others = choose(rest.nonzero().flatten(), explored, self.generator)
        return torch.cat([greedy, others]).sort().values, None


class UCB(_LossAverage):
    """The k samples with the largest upper bound m + c sqrt(v) of the loss.

    m and v are the moving averages of the sample's loss and of its squared deviation. Source: as
    ``EpsilonGreedy``; c = 1 is reconstructed.
    """

    def __init__(
        self,
        n: int,
        prune: float = 0.6,
        generator: torch.Generator | None = None,
        c: float = 1.0,
        decay: float = 0.8,
    ) -> None:
        super().__init__(n, prune, generator, decay)
        self.c = c

    def _select(self) -> tuple[Tensor, None]:
        return largest(self.mean + self.c * self.variance.sqrt(), self.k, self.generator), None


class InfoBatch(Pruner):
    """Drops samples below the mean loss and weights the survivors so that the gradient is unbiased.

    Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning" (ICLR 2024), with a
    controlled drop probability: of the samples below the mean exactly k - n_above are kept, each with weight
    n_below / (k - n_above); when n_above > k, k of the samples above the mean are drawn. So every epoch
    trains on exactly k. Unseen samples count as above the mean.

    Args:
        epochs: length of the training; needed for ``anneal`` < 1.
        anneal: share of the epochs that prune; the remaining ones train on everything (0.875 in the original,
            1 here, where methods are compared at an equal number of samples).
    """

    per_sample: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(
        self,
        n: int,
        prune: float = 0.6,
        generator: torch.Generator | None = None,
        epochs: int | None = None,
        anneal: float = 1.0,
    ) -> None:
        super().__init__(n, prune, generator)
        if not 0 <= anneal <= 1:
            raise ValueError(f"anneal={anneal} is not a share of the epochs; give a number from 0 to 1")
        if anneal < 1 and epochs is None:
            raise ValueError("anneal below 1 needs epochs, the length of the training")
        self.score = torch.full((self.n,), math.inf)
        self.last_pruned = math.inf if epochs is None or anneal == 1 else anneal * epochs
        self.varies = anneal < 1 and self.k < self.n

    def _select(self) -> tuple[Tensor, Tensor | None]:
        if self.epoch >= self.last_pruned:
            return torch.arange(self.n), None
        seen = torch.isfinite(self.score)
        mean = self.score[seen].mean() if seen.any() else torch.tensor(math.inf)
        low = self.score < mean
        above, below = (~low).nonzero().flatten(), low.nonzero().flatten()
        missing = self.k - len(above)
        if missing <= 0:
            return choose(above, self.k, self.generator).sort().values, None
        weight = torch.ones(self.n)
        weight[below] = len(below) / missing
        indices = torch.cat([above, choose(below, missing, self.generator)]).sort().values
        return indices, weight[indices]

    def _update(self, at: Tensor, online: Tensor, reference: Tensor | None) -> None:
        self.score[at] = online
