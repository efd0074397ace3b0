"""From edge logits to masks: one draw for each undirected edge, hard values with a straight-through gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLERS = ("bernoulli", "printed")
STRAIGHT_THROUGH = ("p", "q")
EVALUATION = ("soft", "hard", "sample")


@dataclass
class Pairs:
    """Which directed edges are one undirected edge.

    Attributes:
        group: (E,) int64, the number of each edge's undirected edge. size: (P,) how many directed edges it has: two, or
            one for a self-loop or an edge without a counterpart, more for parallel ones.
        reverse: (E,) int64 positions of the counterparts, where every edge has exactly one (a faster way to average).
    """

    group: Tensor
    size: Tensor
    reverse: Tensor | None = None

    @classmethod
    def of(cls, edge_index: Tensor) -> "Pairs":
        """Of edges in any order: (2, E) sources and targets."""
        low, high = edge_index.min(0).values, edge_index.max(0).values
        key = low * (int(high.max()) + 1 if len(high) else 1) + high
        _, group, size = torch.unique(key, return_inverse=True, return_counts=True)
        return cls(group, size)

    @classmethod
    def of_reverse(cls, reverse: Tensor) -> "Pairs":
        """Of edges whose counterparts are at ``reverse`` (E,) int64; a self-loop is its own."""
        first = torch.minimum(reverse, torch.arange(len(reverse), device=reverse.device))
        return cls(first, torch.ones_like(first), reverse)

    def average(self, logits: Tensor) -> Tensor:
        """The mean over the directed edges of each undirected one: (m, E) to (m, E)."""
        if self.reverse is not None:
            return (logits + logits[:, self.reverse]) / 2
        total = logits.new_zeros(len(logits), len(self.size)).index_add(1, self.group, logits)
        return (total / self.size)[:, self.group]

    def uniform(self, members: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw in (0, 1) for each member and undirected edge, at each of its directed edges: (m, E)."""
        size = (members, len(self.size))
        drawn = torch.rand(
            size, generator=generator, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32)
        )
        tiny = torch.finfo(drawn.dtype).tiny
        return drawn.clamp(min=tiny, max=1 - torch.finfo(drawn.dtype).eps / 2)[:, self.group]


def sample(logits: Tensor, uniform: Tensor, sampler: str = "bernoulli", ste: str = "p", tau: float = 1.0) -> Tensor:
    """Masks of 0 and 1 from logits l and draws U, with a straight-through gradient: (m, E).

    ``bernoulli``: 1 where l + log U - log(1 - U) > 0, which has probability p = sigmoid(l), as the text asks for.
    ``printed``: the paper's equations 4 to 6, 1 where log p + G > 0 with the Gumbel noise G = -log(-log U), which has
    probability 1 - exp(-p), at most 0.632.

    Args:
        logits: (m, E). uniform: (m, E) in (0, 1).
        ste: whose gradient the mask has: that of ``p``, or that of ``q``, the relaxed sample at temperature ``tau``.
    """
    probability = logits.sigmoid()
    if sampler == "bernoulli":
        relaxed = (logits.to(uniform.dtype) + uniform.log() - torch.log1p(-uniform)) / tau
    else:
        relaxed = (torch.nn.functional.logsigmoid(logits).to(uniform.dtype) - (-uniform.log()).log()) / tau
    hard = (relaxed > 0).to(logits.dtype)
    way = probability if ste == "p" else relaxed.sigmoid().to(logits.dtype)
    return hard + (way - way.detach())  # in this order the value is 0 or 1 to the last bit


def check_choices(sampler: str, ste: str, jaccard: str, eval_mask: str, tau: float) -> None:
    """Whether the options are among those that there are.

    Raises:
        ValueError: in one line, one is not.
    """
    from decathlon.tasks.dive.overlap import OVER

    choices = {"sampler": (sampler, SAMPLERS), "ste": (ste, STRAIGHT_THROUGH), "jaccard": (jaccard, OVER),
               "eval_mask": (eval_mask, EVALUATION)}  # fmt: skip
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value} is unknown; choose {', '.join(allowed)}")
    if not tau > 0:
        raise ValueError(f"tau={tau} must be positive")
