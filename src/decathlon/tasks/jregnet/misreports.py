"""Where bidders would lie: the search for misreports during training.

Two searches: gradient ascent as published, and a batched search near the truth that needs no gradient.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Utility = Callable[[Tensor], Tensor]

PIECE = 4096  # rows that one call of the network sees during a search
OFFSETS = (-0.12, -0.05, -0.02, 0.03, 0.1, 0.3)
REFINE = (-0.33, 0.5)


class LocalSearch:
    """Candidates around the true value, scaled at random, and uniform draws over the support; the best one stays.

    Most regret of a trained network comes from shading the bid by less than a tenth, a third or more of it from bids
    that are too high. A handful of offsets on both sides recovers more of it than gradient steps from a random start,
    at the cost of two passes without gradients: the second looks closer around the best of the first. What the search
    does not try, the network learns to exploit: the offsets must reach down to small ones, and up to large ones.

    Args:
        offsets: distances from the truth, in units of the length over which values vary.
        jitter: each offset is multiplied, per profile and bidder, by U[1 - jitter, 1 + jitter].
        uniform: how many candidates are drawn over the whole support.
        refine: distances of the second round, as parts of the distance of the best candidate from the truth.
    """

    def __init__(
        self,
        offsets: Sequence[float] = OFFSETS,
        jitter: float = 0.3,
        uniform: int = 1,
        refine: Sequence[float] = REFINE,
    ) -> None:
        self.offsets = torch.tensor(list(offsets))
        self.jitter, self.uniform = float(jitter), int(uniform)
        self.refine = torch.tensor(list(refine))
        if len(self.offsets) + self.uniform < 1:
            raise ValueError("a local search needs at least one offset or uniform candidate")
        self.noise = len(self.offsets) + self.uniform

    def candidates(self, values: Tensor, noise: Tensor, low: Tensor, high: Tensor, spread: Tensor) -> Tensor:
        """(S, n, M, D) misreports for values (S, n, D) from U[0,1] noise (S, n, M, D); the others are (n, 1, 1)."""
        near = len(self.offsets)
        scale = 1 + self.jitter * (2 * noise[:, :, :near] - 1)
        offsets = self.offsets.to(values)[:, None] * spread
        around = torch.addcmul(values[:, :, None], offsets, scale)
        anywhere = low + noise[:, :, near:] * (high - low)
        return torch.cat([around, anywhere], 2).minimum(high).maximum(low)

    def __call__(
        self, utility: Utility, values: Tensor, noise: Tensor, low: Tensor, high: Tensor, spread: Tensor | None = None
    ) -> Tensor:
        """The best candidate, (S, n, 1, D); ``utility`` maps misreports (S, n, M, D) to utilities.

        ``spread`` is the length over which each bidder's values vary; by default that of the support.
        """
        with torch.no_grad():
            spread = high - low if spread is None else spread
            found, reached = _best(utility, self.candidates(values, noise, low, high, spread))
            if len(self.refine):
                distance = found - values[:, :, None]
                closer = torch.addcmul(found, self.refine.to(values)[:, None], distance).minimum(high).maximum(low)
                nearby, higher = _best(utility, closer)
                found = torch.where(higher > reached, nearby, found)
            return found


class Ascent:
    """Gradient ascent on the misreports alone, as published: Adam with a fresh state, clipped to the support.

    Args:
        steps, lr: R inner steps of size lr, in units of size one.
        count: misreports M per profile and bidder.
    """

    def __init__(self, steps: int = 25, lr: float = 0.1, count: int = 1) -> None:
        if steps < 1 or count < 1 or lr <= 0:
            raise ValueError("gradient ascent needs steps >= 1, count >= 1 and lr > 0")
        self.steps, self.lr, self.noise = int(steps), float(lr), int(count)

    def __call__(self, utility: Utility, start: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Improve ``start`` (S, n, M, D); no gradient reaches the network's parameters if ``utility`` is detached."""
        misreports = start.clone().requires_grad_()
        adam = torch.optim.Adam([misreports], lr=self.lr, maximize=True)
        for _ in range(self.steps):
            with torch.enable_grad():
                (misreports.grad,) = torch.autograd.grad(utility(misreports).sum(), misreports)
            adam.step()
            with torch.no_grad():
                misreports.copy_(misreports.minimum(high).maximum(low))
        return misreports.detach()


def _best(utility: Utility, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The best of M candidates and its utility, (S, n, 1, D); tried in pieces, whose activations fit the cache."""
    piece = max(1, PIECE // max(1, candidates[:, :, 0].numel()))
    utilities = torch.cat([utility(part) for part in candidates.split(piece, 2)], 2)
    best, places = utilities.max(2, keepdim=True)
    return candidates.gather(2, places), best
