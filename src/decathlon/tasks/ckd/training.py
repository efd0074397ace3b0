"""One training: batches, the method's loss, optimiser steps. Every step is a function of the weights and its number."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from decathlon.randomness import generator
from decathlon.recommendation.interactions import ItemLists
from decathlon.recommendation.ranking import evaluate, inner_products
from decathlon.recommendation.samplers import SAMPLERS, Triples, random_triples
from decathlon.tasks.ckd.backbones.base import Backbone, Vectors, Views

if TYPE_CHECKING:
    from decathlon.tasks.ckd.methods.base import Method

Teachers = Mapping[str, Vectors]
"""Of each modality the frozen teacher: users (nu, D) and items (ni, D)."""
Keep = Sequence[str] | None
KS = (10, 20)
SELECTION = "recall@20"


@dataclass(frozen=True)
class Settings:
    """What every training has.

    Args:
        lr: of Adam. reg: weight of the squared output vectors of a batch (lambda).
        batch_size: triples of a step. sampler: ``users`` (every user counts the same) or ``interactions``.
        generic: random triples of a step, for methods that distil.
        epochs: at most. evaluate_every: epochs between two validations.
        patience: validations without improvement after which the training ends.

    Raises:
        ValueError: one of them is out of range.
    """

    lr: float = 5e-4
    reg: float = 1e-5
    batch_size: int = 1024
    sampler: str = "users"
    generic: int = 5000
    epochs: int = 10_000
    evaluate_every: int = 5
    patience: int = 10

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler={self.sampler} is unknown; choose {' or '.join(SAMPLERS)}")
        if not (self.lr > 0 and math.isfinite(self.lr)) or not (self.reg >= 0 and math.isfinite(self.reg)):
            raise ValueError(f"lr={self.lr} must be positive and reg={self.reg} not negative")
        for name in ("batch_size", "generic", "epochs", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


class Rows:
    """The vectors of some triples, and their score differences, in a step; each part is looked up once.

    Args:
        kept: keep the vectors, for :meth:`squares`; else only the differences, which saves memory.
    """

    def __init__(self, triples: Triples, kept: bool = True) -> None:
        self.triples, self.kept = triples, kept
        self._both = torch.cat([triples.positive, triples.negative])
        self._found: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._differences: dict[tuple[int, int], Tensor] = {}
        self._parts: list[Vectors] = []  # kept alive, so that no other tensor gets their ids

    def of(self, part: Vectors) -> tuple[Tensor, Tensor]:
        """Users (B, d) and items (2B, d), the positive ones first; one row (1, d) where all are the same."""
        key = id(part[0]), id(part[1])
        if key in self._found:
            return self._found[key]
        self._parts.append(part)
        users, items = part
        found = (
            users if len(users) == 1 else functional.embedding(self.triples.user, users),
            items if len(items) == 1 else functional.embedding(self._both, items),
        )
        if self.kept:
            self._found[key] = found
        return found

    def difference(self, parts: Sequence[Vectors]) -> Tensor:
        """(B,) the sum over parts of <z_u, z_i - z_j>."""
        found = [self._difference(part) for part in parts if len(part[1]) > 1]  # equal items: the difference is 0
        return torch.stack(found).sum(0) if found else parts[0][0].new_zeros(len(self.triples.user))

    def _difference(self, part: Vectors) -> Tensor:
        key = id(part[0]), id(part[1])
        if key not in self._differences:
            users, items = self.of(part)
            positive, negative = items.chunk(2)
            self._differences[key] = (users * (positive - negative)).sum(1)
        return self._differences[key]

    def squares(self, parts: Sequence[Vectors]) -> Tensor:
        """The squared entries of the vectors of all triples, summed."""
        total: Tensor | float = 0.0
        for part in parts:
            for rows, count in zip(self.of(part), (len(self.triples.user), len(self._both))):
                flat = rows.flatten()
                total = total + flat.dot(flat) * (count if len(rows) == 1 and count != 1 else 1)
        assert isinstance(total, Tensor)
        return total


class Step:
    """What a method may use in one step: triples, and score differences of any counterfactual forward.

    Args:
        number: from 0. seed: of what the method draws.
    """

    def __init__(
        self, number: int, seed: int, backbone: Backbone, triples: Triples, settings: Settings, teachers: Teachers
    ) -> None:
        self.number, self.seed, self.backbone, self.triples = number, seed, backbone, triples
        self.settings, self.teachers, self.views = settings, teachers, Views(backbone)
        self._rows = Rows(triples)
        self._generic: Rows | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.backbone.modalities

    def difference(self, keep: Keep = None) -> Tensor:
        """(B,) s(u, i) - s(u, j) with all modalities but ``keep`` counterfactual."""
        return self._rows.difference(self.views.parts(keep))

    def alone(self) -> dict[str, Tensor]:
        """{name: (B,)} of each modality alone."""
        return {name: self.difference((name,)) for name in self.modalities}

    @torch.no_grad()
    def without(self) -> dict[str, Tensor]:
        """{name: (B,)} with that modality alone counterfactual; no gradients."""
        names, rows = self.modalities, Rows(self.triples)
        views = Views(self.backbone)
        return {name: rows.difference(views.parts([o for o in names if o != name])) for name in names}

    @property
    def generic(self) -> Rows:
        """Random triples, drawn from a stream of their own."""
        if self._generic is None:
            graph = self.backbone.graph
            random = generator("generic triples", self.seed, self.number)
            drawn = random_triples(graph.users, graph.items, self.settings.generic, random)
            own = Triples(*(column.to(self.triples.user.device) for column in drawn))
            self._generic = Rows(own, kept=False)
        return self._generic

    def generic_alone(self) -> dict[str, Tensor]:
        """{name: (G,)} of each modality alone on the random triples."""
        return {name: self.generic.difference(self.views.parts((name,))) for name in self.modalities}

    def taught(self, generic: bool = False) -> dict[str, Tensor]:
        """{name: (B,)} what the teachers say of the triples, or (G,) of the random ones."""
        triples = self.generic.triples if generic else self.triples
        return {name: Rows(triples, kept=False).difference([vectors]) for name, vectors in self.teachers.items()}

    def ranking_loss(self, keep: Keep = None) -> Tensor:
        """The backbone's: mean of -log sigmoid of the differences (BPR), or what it has in its place."""
        return self.backbone.ranking_loss(self, keep)

    def regulariser(self, keep: Keep = None) -> Tensor:
        """``reg`` times half the squares of the batch's output vectors, summed, over the batch size."""
        squares = self._rows.squares(self.views.parts(keep))
        return self.settings.reg * squares / (2 * self.settings.batch_size)

    def base_loss(self, keep: Keep = None) -> Tensor:
        """Ranking loss, regulariser, and the backbone's own loss if it has one."""
        loss = self.ranking_loss(keep) + self.regulariser(keep)
        extra = self.backbone.extra_loss(self, keep)
        return loss if extra is None else loss + extra


class Training:
    """A backbone, a method and the order of the data.

    Args:
        backbone, method: what is trained, and how.
        lists, val: training and validation items. settings: see :class:`Settings`. teachers: for methods that distil.
        seed: of batches and of what the method draws.
    """

    def __init__(
        self, backbone: Backbone, method: "Method", lists: ItemLists, val: ItemLists, settings: Settings, seed: int,
        teachers: Teachers | None = None,
    ) -> None:  # fmt: skip
        self.backbone, self.method, self.settings, self.seed, self.val = backbone, method, settings, seed, val
        self.sampler = SAMPLERS[settings.sampler](lists, settings.batch_size, seed)
        self.teachers: Teachers = teachers or {}
        self._epoch: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.sampler.steps_per_epoch

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam without decay, over the groups that the method makes."""
        groups = self.method.parameter_groups(self.backbone, self.settings.lr)
        return torch.optim.Adam(groups, lr=self.settings.lr, fused=True)

    def step(
        self, number: int, optimizer: Any, backward: Callable[[Tensor], Any] = lambda loss: loss.backward()
    ) -> dict[str, Tensor]:
        """Step ``number``, counted from 0 over all epochs; returns what may be logged."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if place == 0:
            self.backbone.begin_epoch(epoch)
            self.method.begin_epoch(epoch, self)
        elif self._epoch != epoch:
            self.backbone.resume_epoch(epoch)
        self._epoch = epoch
        self.backbone.train()
        step = self.probe(number)
        optimizer.zero_grad()
        logs = self.method.backward(step, backward)
        optimizer.step()
        return logs

    def probe(self, number: int, triples: Triples | None = None) -> Step:
        """A step without an update; ``triples`` instead of those of the sampler."""
        drawn = self.sampler.batch(number) if triples is None else triples
        device = next(self.backbone.parameters()).device
        drawn = Triples(*(column.to(device) for column in drawn))
        return Step(number, self.seed, self.backbone, drawn, self.settings, self.teachers)


@torch.no_grad()
def views_of(backbone: Backbone, method: "Method") -> Iterator[tuple[str, Vectors]]:
    """What is ranked: ``""``, the prediction itself, and by name each modality alone."""
    backbone.eval()
    views = Views(backbone)
    yield "", views(method.keep(backbone))
    for name in backbone.modalities:
        yield f"/{name}", views((name,))


def measure(vectors: Vectors, seen: ItemLists, held: ItemLists) -> dict[str, float]:
    """Ranking metrics at 10 and 20; NaN for vectors that are not finite."""
    users, items = vectors
    found = evaluate(inner_products(users, items), seen, held, KS)
    if not (bool(users.isfinite().all()) and bool(items.isfinite().all())):
        return dict.fromkeys(found, math.nan)
    return found


class Patience:
    """Counts validations without improvement.

    Args:
        limit: so many of them end the training. best: the largest value so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.best, self.count = limit, -math.inf, 0

    def see(self, value: float) -> bool:
        """Whether ``value`` is better than all before; NaN never is."""
        improved = value > self.best
        self.best, self.count = (value, 0) if improved else (self.best, self.count + 1)
        return improved

    @property
    def ended(self) -> bool:
        return self.count >= self.limit
