"""DIVE (Sun et al., KDD 2024): members whose edge masks must not overlap, so that each finds another explanation."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.randomness import generator
from decathlon.tasks.dive.masks import Pairs, check_choices, sample
from decathlon.tasks.dive.overlap import diversity


@dataclass(frozen=True)
class Masking:
    """How masks are drawn from logits, and how their overlap is measured.

    Args:
        sampler: ``bernoulli``, or ``printed`` as the paper's formula has it. ste, tau: see ``masks.sample``.
        jaccard: one ratio over all edges of the ``batch``, or one for each ``graph``.
        eval_mask: outside of training the mask is the probability (``soft``), 1 where that is above 0.5 (``hard``), or
            drawn (``sample``: from a stream of its own, the same at every call).

    Raises:
        ValueError: an unknown choice.
    """

    sampler: str = "bernoulli"
    ste: str = "p"
    tau: float = 1.0
    jaccard: str = "batch"
    eval_mask: str = "soft"

    def __post_init__(self) -> None:
        check_choices(self.sampler, self.ste, self.jaccard, self.eval_mask, self.tau)

    def draw(self, logits: Tensor, pairs: Pairs) -> Tensor:
        """Masks of training, from symmetric logits: (m, E) of 0 and 1 with a gradient."""
        return sample(logits, pairs.uniform(len(logits), logits), self.sampler, self.ste, self.tau)

    def evaluate(self, logits: Tensor, pairs: Pairs) -> Tensor:
        """Masks outside of training: (m, E)."""
        if self.eval_mask == "soft":
            return logits.sigmoid()
        if self.eval_mask == "hard":
            return (logits > 0).to(logits.dtype)
        stream = generator("dive", "evaluation masks", device=logits.device)
        return sample(logits, pairs.uniform(len(logits), logits, stream), self.sampler).detach()

    def overlap(self, masks: Tensor, graph: Callable[[], Tensor]) -> Tensor:
        """Mean pairwise Jaccard index; ``graph`` gives the graph of each edge where that matters."""
        return diversity(masks, graph() if self.jaccard == "graph" else None)


@dataclass
class Output:
    """What m members say of B graphs with E directed edges.

    Attributes:
        predictions: (m, B, C). masks: (m, E), equal on both directions of an edge.
        logits: (m, E), symmetric, whose sigmoid is the probability that a mask keeps the edge.
        overlap: the mean of the pairwise Jaccard indices of the masks. weight: lambda.
    """

    predictions: Tensor
    masks: Tensor
    logits: Tensor
    overlap: Tensor
    weight: float

    def loss(self, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The mean of the members' losses, plus lambda times the overlap (equation 9).

        Args:
            y: labels as ``loss`` takes them. loss: from (B, C) predictions and ``y`` to a number.
        """
        total = torch.stack([loss(one, y) for one in self.predictions]).mean()
        if self.weight == 0 or len(self.predictions) < 2:
            return total
        return total + self.weight * self.overlap


class Dive(nn.Module):
    """m members of your own modules, trained together: ``out = dive(x, edge_index, batch)``, ``out.loss(y, loss)``.

    Args:
        mask: makes a module (x, edge_index, batch) -> edge logits (E,). predict: makes a module (x, edge_index,
            edge_weight, batch) -> (B, C), which has to multiply each message by ``edge_weight`` (E,). Both are called
            once for each member and must make a new module each time; the members must begin with different weights.
        members: m. diversity: lambda, the weight of the overlap.
        options: see ``Masking``.

    Raises:
        ValueError: a number is out of range, an unknown option, or a factory that returns the same module twice.
    """

    def __init__(
        self,
        mask: Callable[[], nn.Module],
        predict: Callable[[], nn.Module],
        members: int = 2,
        diversity: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__()
        check_members(members, diversity)
        self.masking, self.diversity = Masking(**options), float(diversity)
        self.extractors = nn.ModuleList(_made(mask, "mask") for _ in range(members))
        self.classifiers = nn.ModuleList(_made(predict, "predict") for _ in range(members))
        for name, modules in (("mask", self.extractors), ("predict", self.classifiers)):
            _refuse_shared(name, modules)
        if members > 1 and _equal(self.extractors[0], self.extractors[1]):
            warnings.warn(
                "DIVE: the members' extractors begin with equal weights; draw them anew for each", stacklevel=2
            )

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, **more: Tensor) -> Output:
        """All members on a batch of graphs.

        Args:
            x: (N, F). edge_index: (2, E), an undirected edge in both directions. batch: (N,) the graph of each node.
            more: passed on to all modules, for example ``edge_attr``.

        Raises:
            ValueError: an edge leaves the graph, or an extractor does not return one logit for each edge.
        """
        count = edge_index.shape[1]
        if count and (int(edge_index.min()) < 0 or int(edge_index.max()) >= len(x)):
            raise ValueError(f"edge_index has node {int(edge_index.max())}, there are {len(x)} nodes, from 0")
        logits = torch.stack([_logits(module(x, edge_index, batch, **more), count) for module in self.extractors])
        pairs = Pairs.of(edge_index)
        logits = pairs.average(logits)
        masks = self.masking.draw(logits, pairs) if self.training else self.masking.evaluate(logits, pairs)
        predictions = [
            module(x, edge_index, weight, batch, **more) for module, weight in zip(self.classifiers, masks, strict=True)
        ]
        overlap = self.masking.overlap(masks, lambda: batch[edge_index[0]])
        return Output(torch.stack(predictions), masks, logits, overlap, self.diversity)


def check_members(members: int, diversity: float) -> None:
    """Whether there can be so many members, with such a weight of their overlap.

    Raises:
        ValueError: in one line, no.
    """
    if isinstance(members, bool) or int(members) != members or members < 1:
        raise ValueError(f"members={members} must be a whole number of at least 1")
    if not 0 <= diversity < float("inf"):
        raise ValueError(f"diversity={diversity} must be a number of at least 0")


def _made(factory: Callable[[], nn.Module], name: str) -> nn.Module:
    module = factory()
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name} must make a torch module, it made a {type(module).__name__}")
    return module


def _refuse_shared(name: str, modules: nn.ModuleList) -> None:
    seen: set[int] = set()
    for module in modules:
        own = {id(parameter) for parameter in module.parameters()} | {id(module)}
        if own & seen:
            raise ValueError(f"{name} made modules that share weights; it has to make a new one at each call")
        seen |= own


def _equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = list(zip(one.parameters(), other.parameters()))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def _logits(found: Tensor, edges: int) -> Tensor:
    if found.shape == (edges, 1):
        found = found[:, 0]
    if found.shape != (edges,):
        raise ValueError(f"an extractor returned shape {tuple(found.shape)} for {edges} edges; one logit for each")
    return found
