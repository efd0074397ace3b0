"""MEMIT (Meng et al. 2023): many facts at once, spread over several layers, in closed form."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decathlon.language.decoder import check_layer, decoder_of
from decathlon.language.tokens import batches
from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.base import Options
from decathlon.tasks.kele.editors.locate import Found, LocateEditor, LocateOptions
from decathlon.tasks.kele.editors.observe import Observed, at_subjects
from decathlon.tasks.kele.editors.prompts import Prompted
from decathlon.tasks.kele.editors.recall import add_to_output
from decathlon.tasks.kele.update import LowRank, Update

_TOKENS = 8192


def stream_norms(observed: Observed) -> Tensor:
    """||h|| of the residual stream after the block at the subject, (rows, 1)."""
    wide = torch.promote_types(observed.hidden.dtype, torch.float32)
    return torch.linalg.vector_norm(observed.hidden[:, :1].to(wide), dim=-1)


def regularised(residual: Tensor, keys: Tensor, solved: Tensor, weight: float) -> LowRank:
    """R K^T (weight C + K K^T)^-1, by the Woodbury identity: only a matrix of edits x edits is inverted.

    Args:
        residual: R^T, (edits, width). keys: K^T, (edits, inner). solved: (C^-1 K)^T, (edits, inner). All float64.
    """
    small = weight * torch.eye(len(keys), dtype=keys.dtype, device=keys.device) + keys @ solved.T
    return LowRank(residual.T, torch.linalg.solve(small, solved).T)


@dataclass(frozen=True)
class MemitOptions(LocateOptions):
    """Options of MEMIT.

    Args:
        weight: lambda, the weight of the old associations, which multiplies the mean C.
    """

    clamp: float = 0.75
    contexts: Any = ((10, 5),)
    weight: float = 15_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight > 0:
            raise ValueError(f"weight={self.weight} must be positive")


class Memit(LocateEditor):
    """Edits of a request are made together: all share one update per layer.

    The residual stream after the last layer shall become z = h + delta at each subject. Going up, each layer takes its
    share of what is still missing.
    """

    options_class: ClassVar[type[Options]] = MemitOptions
    chain: ClassVar[tuple[str, ...]] = ("memit",)

    def _layers(self, layers: list[int]) -> list[int]:
        chosen = sorted({check_layer(self.model, layer) for layer in layers})
        if not chosen:
            raise ValueError("layer names no layer")
        return chosen

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        began = time.perf_counter()
        updates = [Update() for _ in requests]
        edits = self.tokenised([edit for request in requests for edit in request])
        owners = [index for index, request in enumerate(requests) for _ in request]
        if edits:
            self.moments.compute(self.layers)
            found = self._found(edits)
            target = self._target(found)
            for index, note in zip(owners, self.notes(edits, found)):
                updates[index].notes.append(note)
            for place, layer in enumerate(self.layers):
                keys, current = self._observe(edits, layer, [updates[index] for index in owners])
                share = self._share(len(self.layers) - place)
                self._write(updates, owners, layer, (target - current).double().cpu() / share, keys.double().cpu())
        seconds = (time.perf_counter() - began) / max(1, len(requests))
        for update in updates:
            update.seconds = seconds
        return updates

    def _found(self, edits: Sequence[Prompted]) -> Found:
        return self.find(edits, self.layer, stream_norms, add_to_output)

    def _target(self, found: Found) -> Tensor:
        """What the watched output shall be at each subject, (edits, width)."""
        return found.plain_output + found.recall.vectors[:, 0]

    @property
    def _watched(self) -> str:
        """The module whose output at the subject shall reach the target."""
        return decoder_of(self.model).name("block", self.layer)

    def _share(self, remaining: int) -> float:
        """One over the share of the residual that a layer takes when ``remaining`` are left, itself included."""
        return float(remaining)

    def _observe(self, edits: Sequence[Prompted], layer: int, updates: Sequence[Update]) -> tuple[Tensor, Tensor]:
        """Keys at ``layer`` (mean of the plain one and the others' mean) and the watched output, as edited so far."""
        down = decoder_of(self.model).name("down", layer)
        rows = [
            (prompt, subject, index)
            for index, edit in enumerate(edits)
            for prompt, subject in zip(edit.prompts, edit.subjects)
        ]
        keys: list[Tensor] = [torch.empty(0)] * len(rows)
        outputs: list[Tensor] = [torch.empty(0)] * len(rows)
        for batch in batches([subject + 1 for _, subject, _ in rows], _TOKENS):
            chosen = [rows[index] for index in batch]
            patches = [updates[owner].deltas for _, _, owner in chosen]
            inputs, made = at_subjects(
                self.model, [row for row, _, _ in chosen], [place for _, place, _ in chosen],
                [down], [self._watched], patches,  # type: ignore[arg-type]
            )  # fmt: skip
            for index, key, output in zip(batch, inputs[down], made[self._watched]):
                keys[index], outputs[index] = key, output
        wide = torch.promote_types(self.model.dtype, torch.float32)
        contexts = len(self.contexts)
        all_keys = torch.stack(keys).to(wide).reshape(len(edits), contexts, -1)
        mean = all_keys[:, 0] if contexts == 1 else (all_keys[:, 0] + all_keys[:, 1:].mean(1)) / 2
        return mean, torch.stack(outputs).to(wide).reshape(len(edits), contexts, -1)[:, 0]

    def _write(self, updates: list[Update], owners: list[int], layer: int, residual: Tensor, keys: Tensor) -> None:
        name = decoder_of(self.model).name("down", layer)
        groups = []
        for index, update in enumerate(updates):
            mine = torch.tensor([row for row, owner in enumerate(owners) if owner == index], dtype=torch.long)
            if len(mine):
                groups.append((update, mine))
        deltas = self._deltas(layer, residual, keys, [mine for _, mine in groups])
        for (update, _), delta in zip(groups, deltas):
            update.add(name, delta)

    def _deltas(self, layer: int, residual: Tensor, keys: Tensor, groups: Sequence[Tensor]) -> list[LowRank]:
        """The change of one layer's matrix for each request, whose edits are the rows of one of ``groups``."""
        solved = self.moments.solve(layer, keys)
        return [regularised(residual[mine], keys[mine], solved[mine], self.options.weight) for mine in groups]
