"""ROME (Meng et al. 2022): one fact, one layer, one rank-one update in closed form; R-ROME's keys by default."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decathlon.language.decoder import decoder_of
from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.base import Options, log
from decathlon.tasks.kele.editors.locate import Found, LocateEditor, LocateOptions
from decathlon.tasks.kele.editors.observe import Observed
from decathlon.tasks.kele.editors.prompts import Prompted
from decathlon.tasks.kele.editors.recall import add_to_output
from decathlon.tasks.kele.update import LowRank, Update

_WARN_COSINE = 0.1


def value_norms(observed: Observed) -> Tensor:
    """||v|| of the MLP's output at the subject, (rows, 1)."""
    wide = torch.promote_types(observed.values.dtype, torch.float32)
    return torch.linalg.vector_norm(observed.values[:, :1].to(wide), dim=-1)


def rank_one(vector: Tensor, direction: Tensor, key: Tensor) -> LowRank:
    """The smallest change (in the norm that C gives) by which ``key`` comes out ``vector`` further.

    W' = W + h (C^-1 k)^T / ((C^-1 k)^T k_0), ROME's closed form with v* - W k = h.

    Args:
        vector: h, (width,). direction: C^-1 k, (inner,). key: k_0, (inner,).
    """
    return LowRank((vector / (direction @ key))[:, None], direction[:, None])


@dataclass(frozen=True)
class RomeOptions(LocateOptions):
    """Options of ROME.

    Args:
        key_mode: ``r_rome``: the mean key over contexts is mapped to its new value. ``rome``: as in the first code, the
            mean key gives the direction and the plain prompt's key is mapped; for some subjects the two are nearly
            orthogonal and the update explodes.
    """

    key_mode: str = "r_rome"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.key_mode not in ("rome", "r_rome"):
            raise ValueError(f"key_mode={self.key_mode} is unknown; choose rome or r_rome")


class Rome(LocateEditor):
    """Injects the new fact; several edits of a request are applied one after another."""

    options_class: ClassVar[type[Options]] = RomeOptions
    chain: ClassVar[tuple[str, ...]] = ("rome",)

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        """The first edits of all requests in one batch, then the second ones on top of them, and so on."""
        began = time.perf_counter()
        updates = [Update() for _ in requests]
        flat = self.tokenised([edit for request in requests for edit in request])
        prompted = iter(flat)
        queues = [[next(prompted) for _ in request] for request in requests]
        for turn in range(max((len(queue) for queue in queues), default=0)):
            cases = [index for index, queue in enumerate(queues) if len(queue) > turn]
            edits = [queues[index][turn] for index in cases]
            patches = [updates[index].deltas for index in cases] if turn else None
            found = self.find(edits, self.layer, value_norms, add_to_output, patches)  # type: ignore[arg-type]
            for index, delta, note in zip(cases, self._deltas(found), self._notes(edits, found)):
                updates[index].add(self.module_name, delta)
                updates[index].notes.append(note)
        seconds = (time.perf_counter() - began) / max(1, len(requests))
        for update in updates:
            update.seconds = seconds
        return updates

    @property
    def module_name(self) -> str:
        """The edited module."""
        return decoder_of(self.model).name("down", self.layer)

    @property
    def _two_keys(self) -> bool:
        """Whether the mean key gives the direction and the plain prompt's key is mapped."""
        return bool(self.options.key_mode == "rome")

    def _deltas(self, found: Found) -> list[LowRank]:
        directions = self.moments.solve(self.layer, found.key).to(found.key)
        keys = found.plain_key if self._two_keys else found.key
        wide = torch.float64
        return [
            rank_one(vector.to(wide), direction.to(wide), key.to(wide))
            for vector, direction, key in zip(found.recall.vectors[:, 0], directions, keys)
        ]

    def _notes(self, edits: Sequence[Prompted], found: Found) -> list[dict[str, Any]]:
        notes = self.notes(edits, found)
        mean, plain = found.key.double().cpu(), found.plain_key.double().cpu()
        a, b = self.moments.solve(self.layer, mean), self.moments.solve(self.layer, plain)
        cosine = (a * plain).sum(1) / ((a * mean).sum(1) * (b * plain).sum(1)).sqrt()
        harmful = self._two_keys
        for note, edit, value in zip(notes, edits, cosine.tolist()):
            note["key_cosine"] = value
            if abs(value) < _WARN_COSINE:
                log.log(
                    logging.WARNING if harmful else logging.INFO,
                    "%r: the mean key and the plain prompt's key are nearly orthogonal (cosine %.3f)%s",
                    edit.edit.text,
                    value,
                    "; the update may explode, use key_mode=r_rome" if harmful else "",
                )
        return notes
