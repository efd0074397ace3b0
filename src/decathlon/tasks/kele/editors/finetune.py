"""FT and FT-L: train one matrix on the new fact; FT-L keeps every weight within a small distance of the old one."""

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decathlon.language.decoder import decoder_of, matrix
from decathlon.language.forward import device_of, head
from decathlon.language.resume import upper_blocks
from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.base import LayerEditor, Options
from decathlon.tasks.kele.editors.observe import Observed, observe
from decathlon.tasks.kele.editors.prompts import Prompted, tokenise
from decathlon.tasks.kele.update import Dense, Update

_MEMORY = 2**30


@dataclass(frozen=True)
class FineTuneOptions(Options):
    """Options of FT.

    Args:
        lr, steps, stop: Adam's learning rate, at most so many steps, and the loss below which a request is done.
        scoring: ``teacher``: each token of the new object is predicted behind the ones before it. ``last``: all of them
            at the prompt's last position, as ROME's code does it; wrong for objects of several tokens.
        epsilon: largest change of a weight; None: no limit (FT).
    """

    lr: float = 5e-4
    steps: int = 25
    stop: float = 1e-2
    scoring: str = "teacher"
    epsilon: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lr > 0 or self.steps < 0:
            raise ValueError(f"lr={self.lr} must be positive and steps={self.steps} not negative")
        if self.scoring not in ("teacher", "last"):
            raise ValueError(f"scoring={self.scoring} is unknown; choose teacher or last")
        if self.epsilon is not None and not self.epsilon > 0:
            raise ValueError(f"epsilon={self.epsilon} must be positive")


@dataclass
class _Rows:
    """Where the objects' tokens of some requests are predicted; weights of a request add up to 1."""

    row: Tensor
    column: Tensor
    token: Tensor
    owner: Tensor
    weight: Tensor
    rows: Tensor  # which request each row belongs to


class FineTune(LayerEditor):
    """Minimises -log P(new | prompt) over the MLP's last matrix of one layer, for all edits of a request together.

    Requests are trained side by side, each with its own copy of the matrix; what lies below it is computed once.
    """

    options_class: ClassVar[type[Options]] = FineTuneOptions
    chain: ClassVar[tuple[str, ...]] = ("ft",)

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        began = time.perf_counter()
        edits = iter(tokenise(self.tokenizer, [e for request in requests for e in request], [""], self.options.bos))
        prompted = [[next(edits) for _ in request] for request in requests]
        updates = [Update() for _ in requests]
        name = decoder_of(self.model).name("down", self.layer)
        module = self.model.get_submodule(name)
        at_a_time = max(1, _MEMORY // (5 * 4 * module.weight.numel()))
        filled = [index for index, request in enumerate(prompted) if request]
        for first in range(0, len(filled), at_a_time):
            batch = filled[first : first + at_a_time]
            weights, losses, steps = self._train([prompted[index] for index in batch], module)
            for index, weight, loss, step in zip(batch, weights, losses.tolist(), steps.tolist()):
                updates[index].deltas[name] = Dense(weight)
                updates[index].notes = [{"loss": loss, "steps": step, "p_new": math.exp(-loss)}]
        for update in updates:
            update.seconds = (time.perf_counter() - began) / len(updates)
        return updates

    def _train(self, requests: list[list[Prompted]], module: Any) -> tuple[Tensor, Tensor, Tensor]:
        """New weights (requests, out, in), final losses and Adam steps taken."""
        goal = self.options
        observed, places = self._observe(requests)
        wide = torch.promote_types(self.model.dtype, torch.float32)
        old = matrix(module).detach().to(wide)
        weights = old.expand(len(requests), -1, -1).clone()
        mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
        going = torch.ones(len(requests), dtype=torch.bool, device=old.device)
        final = old.new_zeros(len(requests))
        steps = torch.zeros(len(requests), dtype=torch.long, device=old.device)
        for step in range(goal.steps + 1):
            with torch.enable_grad():
                part = weights.clone().requires_grad_(True)
                losses = self._losses(part, module, observed, places)
                summed = losses.sum()
            final[going] = losses.detach()[going]
            going = going & (losses.detach() >= goal.stop)
            if step == goal.steps or not bool(going.any()):
                break
            (gradient,) = torch.autograd.grad(summed, part)
            now = going[:, None, None]
            mean.copy_(torch.where(now, 0.9 * mean + 0.1 * gradient, mean))
            square.copy_(torch.where(now, 0.999 * square + 0.001 * gradient**2, square))
            unbiased = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            new = weights - goal.lr / (1 - 0.9 ** (step + 1)) * mean / unbiased
            if goal.epsilon is not None:
                new = torch.minimum(torch.maximum(new, old - goal.epsilon), old + goal.epsilon)
            weights = torch.where(now, new, weights)
            steps += going
        return weights, final, steps

    def _observe(self, requests: list[list[Prompted]]) -> tuple[Observed, _Rows]:
        rows: list[list[int]] = []
        owners: list[int] = []
        row: list[int] = []
        column: list[int] = []
        token: list[int] = []
        owner: list[int] = []
        weight: list[float] = []
        for index, request in enumerate(requests):
            for edit in request:
                (prompt,), size = edit.prompts, len(edit.new)
                teacher = self.options.scoring == "teacher"
                row += [len(rows)] * size
                column += range(len(prompt) - 1, len(prompt) - 1 + size) if teacher else [len(prompt) - 1] * size
                token += edit.new
                owner += [index] * size
                weight += [1 / (len(request) * size)] * size
                rows.append([*prompt, *(edit.new[:-1] if teacher else [])])
                owners.append(index)
        device = device_of(self.model)
        places = _Rows(
            row=torch.tensor(row, device=device),
            column=torch.tensor(column, device=device),
            token=torch.tensor(token, device=device),
            owner=torch.tensor(owner, device=device),
            weight=torch.tensor(weight, device=device, dtype=torch.promote_types(self.model.dtype, torch.float32)),
            rows=torch.tensor(owners, device=device),
        )
        return observe(self.model, self.layer, rows, [0] * len(rows)), places

    def _losses(self, weights: Tensor, module: Any, observed: Observed, places: _Rows) -> Tensor:
        values = observed.keys.to(weights.dtype) @ weights[places.rows].transpose(1, 2)
        if module.bias is not None:
            values = values + module.bias
        hidden = observed.hidden - observed.values + values.to(observed.hidden.dtype)
        top = upper_blocks(self.model, self.layer + 1, hidden, observed.positions, observed.masks, observed.past)
        logp = torch.log_softmax(head(self.model, top[places.row, places.column]).to(weights.dtype), dim=-1)
        nll = -logp.gather(1, places.token[:, None])[:, 0] * places.weight
        return weights.new_zeros(len(weights)).index_add(0, places.owner, nll)


@dataclass(frozen=True)
class FineTuneLOptions(FineTuneOptions):
    """Options of FT-L: ``epsilon`` is the largest change of a weight."""

    epsilon: float | None = 5e-4


class FineTuneL(FineTune):
    """FT with every weight kept within ``epsilon`` of its old value after each step."""

    options_class: ClassVar[type[Options]] = FineTuneLOptions
    chain: ClassVar[tuple[str, ...]] = ("ft", "ft_l")
