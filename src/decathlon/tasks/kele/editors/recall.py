"""The recall vector of an edit: what must be added at the subject's last token to make the model say the new object.

Injection, erasure, locality and norm penalty (see ``Objective``) are minimised by Adam with a clamp. Many edits are
optimised together: each has its own Adam state, clamp and stop, and leaves the batch when it has converged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from decathlon.language.forward import head
from decathlon.language.resume import upper_blocks
from decathlon.tasks.kele.editors.observe import Observed
from decathlon.tasks.kele.editors.prompts import Prompted

_SHRINK = 0.75  # rows are dropped when this share of them is left: dropping copies their keys and values


@dataclass(frozen=True)
class Objective:
    """Loss and optimiser of a recall vector h.

    loss(h) = gamma * injection + alpha * erasure + beta * KL + omega * ||h|| / ||v||^2

    Args:
        lr, steps: Adam's learning rate, and how often the loss is evaluated; the last evaluation is not followed by a
            step, so there are at most ``steps - 1`` of them.
        stop: an edit has converged when its loss, all terms included and weighted, is below this. The usual thresholds
            are meant for an injection in nats. Without it (gamma = 0) they are a height of the old logit above the
            k-th one, ``stop / alpha``: choose one close to 0 then, so that only a finished erasure ends the search.
        clamp: after a step ||h|| is at most ``clamp`` times ||v||.
        gamma: weight of the injection loss; 0: the new object is nowhere asked for. Where the erasure is read still
            depends on it if old and new object begin alike.
        alpha: weight of the erasure loss; 0: none.
        depth: k of the erasure loss: the old object is pushed below the k-th largest logit.
        beta: weight of the KL divergence at the subject's last token in "{subject} is a".
        kl: ``forward``: KL(before || after); ``reverse``: KL(after || before), which is what ROME's published code
            evaluates.
        omega: weight of the norm penalty.
    """

    lr: float = 0.5
    steps: int = 20
    stop: float = 0.05
    clamp: float = 4.0
    gamma: float = 1.0
    alpha: float = 0.0
    depth: int = 20
    beta: float = 0.0625
    kl: str = "forward"
    omega: float = 0.5

    def __post_init__(self) -> None:
        for name in ("lr", "clamp"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("steps", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("gamma", "alpha", "beta", "omega", "stop"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.kl not in ("forward", "reverse"):
            raise ValueError(f"kl={self.kl} is unknown; choose forward or reverse")


@dataclass
class Losses:
    """The loss of each edit and its terms, not weighted, (edits,) each."""

    total: Tensor
    injection: Tensor
    erasure: Tensor
    divergence: Tensor


@dataclass
class Recall:
    """Recall vectors of some edits.

    vectors: (edits, parts, width), float32 or wider; ``parts`` is 1, or 2 for PMET. losses: when each stopped.
    steps: Adam steps taken.
    """

    vectors: Tensor
    losses: Losses
    steps: Tensor


def rows_of(edit: Prompted, essence: bool) -> tuple[list[list[int]], list[int]]:
    """Token rows of one edit, teacher forcing included, and where each one's subject ends.

    Args:
        essence: append the row "{subject} is a", up to its subject's last token: no later position is read.
    """
    rows = [[*prompt, *edit.new[:-1]] for prompt in edit.prompts]
    subjects = list(edit.subjects)
    if essence:
        rows.append(edit.essence[: edit.essence_subject + 1])
        subjects.append(edit.essence_subject)
    return rows, subjects


@dataclass
class Points:
    """Places in the flattened rows of an ``Observed`` where a logit is read, one entry each.

    attributes:
        row, column: the place. token: the token whose logit is read. edit: which edit it belongs to.
        weight: its share in the edit's mean.
    """

    row: Tensor
    column: Tensor
    token: Tensor
    edit: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, entries: Sequence[tuple[int, int, int, int, float]], device: torch.device, dtype: torch.dtype) -> Self:
        """From one tuple (row, column, token, edit, weight) per place."""
        row, column, token, edit, weight = zip(*entries) if entries else ((),) * 5
        whole = {"row": row, "column": column, "token": token, "edit": edit}
        long = {name: torch.tensor(part, dtype=torch.long, device=device) for name, part in whole.items()}
        return cls(**long, weight=torch.tensor(weight, dtype=dtype, device=device))


@dataclass
class Places:
    """Where the losses of some edits are read.

    attributes:
        new: the predicted tokens of the new objects; an edit's weights add up to 1. erased: the old object's token at
            those of them that predict the first token that old and new object do not share; weights add up to 1, too.
        erased_at: which entries of ``new`` these are.
        essence: the essence row of each edit. rows: which edit each row belongs to. count: how many edits there are.
    """

    new: Points
    erased: Points
    erased_at: Tensor
    essence: Tensor
    rows: Tensor
    count: int


def places_of(edits: Sequence[Prompted], essence: bool, device: torch.device, dtype: torch.dtype) -> Places:
    """``Places`` of the rows that ``rows_of`` makes for ``edits``, one after another."""
    new: list[tuple[int, int, int, int, float]] = []
    erased: list[tuple[int, int, int, int, float]] = []
    erased_at: list[int] = []
    essences: list[int] = []
    rows: list[int] = []
    for index, edit in enumerate(edits):
        contexts, length = len(edit.prompts), len(edit.new)
        for prompt, subject in zip(edit.prompts, edit.subjects):
            at, first = len(rows), len(prompt) - 1 - subject
            if edit.shared is not None:
                erased_at.append(len(new) + edit.shared)
                erased.append((at, first + edit.shared, edit.old[edit.shared], index, 1 / contexts))
            new += [(at, first + i, token, index, 1 / (contexts * length)) for i, token in enumerate(edit.new)]
            rows.append(index)
        if essence:
            essences.append(len(rows))
            rows.append(index)

    def long(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Places(
        new=Points.of(new, device, dtype),
        erased=Points.of(erased, device, dtype),
        erased_at=long(erased_at),
        essence=long(essences),
        rows=long(rows),
        count=len(edits),
    )


def erasure(logits: Tensor, old: Tensor, depth: int) -> Tensor:
    """max(0, D[o] - D^(k)) for each row: how far the old object's logit is above the k-th largest one.

    Args:
        logits: (rows, vocabulary). old: (rows,) token ids. depth: k, counted over the whole vocabulary.
    """
    kth = logits.topk(min(depth, logits.shape[-1]), dim=-1).values[:, -1]
    return torch.relu(logits.gather(1, old[:, None])[:, 0] - kth)


Inject = Callable[[Observed, Tensor], Tensor]


def add_to_output(observed: Observed, vectors: Tensor) -> Tensor:
    """The block's output at the subject, (rows, width), with each row's vector added to it (or to its MLP's output)."""
    return observed.hidden[:, 0] + vectors[:, 0].to(observed.hidden.dtype)


class Problem:
    """The losses of some edits as a function of their recall vectors.

    Args:
        observed: rows from the subject's last token on, at the edited layer.
        inject: how vectors (rows, parts, width) change the block's output at the subject.
    """

    def __init__(
        self,
        model: Any,
        layer: int,
        observed: Observed,
        places: Places,
        objective: Objective,
        norms: Tensor,
        inject: Inject,
    ) -> None:
        self.model, self.layer, self.objective, self.inject = model, layer, objective, inject
        self.observed, self.places, self.norms = observed, places, norms
        self.before: Tensor | None = None

    def losses(self, vectors: Tensor) -> Losses:
        """The terms for each edit, given ``vectors`` (edits, parts, width)."""
        places, goal, dtype = self.places, self.objective, vectors.dtype
        first = self.inject(self.observed, vectors[places.rows])
        hidden = torch.cat([first[:, None], self.observed.hidden[:, 1:]], dim=1)
        observed = self.observed
        top = upper_blocks(self.model, self.layer + 1, hidden, observed.positions, observed.masks, observed.past)
        new = places.new
        logits = head(self.model, top[new.row, new.column]).to(dtype)
        logp = torch.log_softmax(logits, dim=-1).gather(1, new.token[:, None])[:, 0]
        zeros = vectors.new_zeros(places.count)
        injection = zeros.index_add(0, new.edit, -logp * new.weight)
        erased, divergence = zeros, zeros
        if goal.alpha > 0 and len(places.erased):
            excess = erasure(logits[places.erased_at], places.erased.token, goal.depth)
            erased = zeros.index_add(0, places.erased.edit, excess * places.erased.weight)
        if goal.beta > 0:
            after = torch.log_softmax(head(self.model, top[places.essence, 0]).to(dtype), dim=-1)
            if self.before is None:
                self.before = after.detach()
            p, q = (self.before, after) if goal.kl == "forward" else (after, self.before)
            divergence = (p.exp() * (p - q)).sum(dim=-1)
        penalty = torch.linalg.vector_norm(vectors, dim=-1) / self.norms**2
        wanted = goal.gamma * injection  # exact for gamma = 1
        total = wanted + goal.alpha * erased + goal.beta * divergence + goal.omega * penalty.sum(dim=-1)
        return Losses(total, injection, erased, divergence)

    def keep(self, edits: Tensor, edits_prompted: Sequence[Prompted]) -> None:
        """Go on with some of the edits only. ``edits_prompted`` are those, in order."""
        device = edits.device
        wanted = torch.isin(self.places.rows, edits)
        self.observed = self.observed.select(torch.nonzero(wanted)[:, 0])
        self.places = places_of(edits_prompted, len(self.places.essence) > 0, device, self.places.new.weight.dtype)
        self.norms = self.norms[edits]
        self.before = self.before[edits] if self.before is not None else None


def optimise(problem: Problem, edits: Sequence[Prompted], watch: Callable[[Tensor], None] | None = None) -> Recall:
    """Minimise the losses of all edits at once, from h = 0.

    Adam with the usual betas (0.9, 0.999) and eps 1e-8, state per edit; the clamp after each step.

    Args:
        watch: called with the vectors of the edits in the batch after each step (for tests).
    """
    goal, norms = problem.objective, problem.norms
    count, parts = norms.shape
    width = problem.observed.hidden.shape[-1]
    vectors = norms.new_zeros(count, parts, width)
    mean, square = torch.zeros_like(vectors), torch.zeros_like(vectors)
    steps = torch.zeros(count, dtype=torch.long, device=norms.device)
    final = Losses(*(norms.new_zeros(count) for _ in range(4)))
    batch = torch.arange(count, device=norms.device)  # the edits whose rows are in the batch
    active = torch.ones(count, dtype=torch.bool, device=norms.device)
    for step in range(goal.steps):
        part = vectors[batch].requires_grad_(True)
        with torch.enable_grad():
            losses = problem.losses(part)
            summed = losses.total[active[batch] & (losses.total >= goal.stop)].sum()
        going = active[batch]
        for name in ("total", "injection", "erasure", "divergence"):
            getattr(final, name)[batch[going]] = getattr(losses, name).detach()[going]
        active[batch[losses.total.detach() < goal.stop]] = False
        going = active[batch]
        if step + 1 == goal.steps or not bool(going.any()):
            break
        (gradient,) = torch.autograd.grad(summed, part)
        moving = batch[going]
        gradient = gradient[going]
        mean[moving] = 0.9 * mean[moving] + 0.1 * gradient
        square[moving] = 0.999 * square[moving] + 0.001 * gradient**2
        unbiased = (square[moving] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        new = vectors[moving] - goal.lr / (1 - 0.9 ** (step + 1)) * mean[moving] / unbiased
        length = torch.linalg.vector_norm(new, dim=-1, keepdim=True)
        limit = goal.clamp * norms[moving][..., None]
        vectors[moving] = torch.where(length > limit, new * (limit / length.clamp_min(1e-30)), new)
        steps[moving] += 1
        if watch is not None:
            watch(vectors[moving])
        if len(moving) < _SHRINK * len(batch):
            problem.keep(torch.nonzero(going)[:, 0], [edits[index] for index in moving.tolist()])
            batch = moving
    return Recall(vectors, final, steps)
