"""Static pruning: one subset, chosen once before training."""

from typing import Any

import torch
from torch import Tensor

from decathlon.pruning.base import Pruner, kept, largest, positions


class Fixed(Pruner):
    """Trains on the given positions (k,) in every epoch, with the given weights (ones by default)."""

    def __init__(self, n: int, indices: Tensor, weights: Tensor | None = None) -> None:
        super().__init__(n, 0.0)
        self._fix(indices, weights)

    def _fix(self, indices: Tensor, weights: Tensor | None = None) -> None:
        indices = positions(indices, self.n)
        if len(indices) < 1 or len(indices.unique()) < len(indices):
            raise ValueError(f"a subset has at least one position, each once; got {len(indices)}")
        if weights is not None and weights.shape != indices.shape:
            raise ValueError(f"{len(indices)} positions need as many weights, got shape {tuple(weights.shape)}")
        order = indices.argsort()
        self.indices = indices[order]
        self.weights = None if weights is None else weights[order].float()
        self.k = len(indices)

    def _select(self) -> tuple[Tensor, Tensor | None]:
        return self.indices, self.weights

    def state_dict(self) -> dict[str, Any]:
        """As every pruner's, and the subset."""
        weights = {} if self.weights is None else {"weights": self.weights}
        return {**super().state_dict(), "indices": self.indices, **weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``, with its subset."""
        super().load_state_dict(state)
        self._fix(state["indices"], state.get("weights"))


class Full(Fixed):
    """The whole training set, whatever ``prune`` is."""

    def __init__(self, n: int, prune: float = 0.0, generator: torch.Generator | None = None) -> None:
        kept(n, prune)
        super().__init__(n, torch.arange(n))


class HardRandom(Fixed):
    """One uniform subset without replacement."""

    def __init__(self, n: int, prune: float = 0.6, generator: torch.Generator | None = None) -> None:
        Pruner.__init__(self, n, prune, generator)
        self._fix(torch.randperm(n, generator=self.generator)[: self.k])


class ByScore(Fixed):
    """The samples with the largest of the given ``scores`` (n,), ties at random."""

    def __init__(self, scores: Tensor, prune: float = 0.6, generator: torch.Generator | None = None) -> None:
        Pruner.__init__(self, len(scores), prune, generator)
        self._fix(largest(scores, self.k, self.generator))
