"""EMMET (Gupta et al. 2024): ROME for a batch of facts; every key is mapped to its value exactly, in one update."""

import time
from typing import ClassVar

import torch
from torch import Tensor

from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.recall import add_to_output
from decathlon.tasks.kele.editors.rome import Rome, value_norms
from decathlon.tasks.kele.update import LowRank, Update


def equality_constrained(vectors: Tensor, keys: Tensor, solved: Tensor) -> LowRank:
    """H (K^T C^-1 K)^-1 K^T C^-1 with H = V* - W K, so that W' K = V*.

    The pseudo-inverse is taken: if keys repeat, their values are averaged instead of failing.

    Args:
        vectors: H^T, (edits, width). keys: K^T, (edits, inner). solved: (C^-1 K)^T, (edits, inner). All float64.
    """
    return LowRank(vectors.T, (torch.linalg.pinv(keys @ solved.T, hermitian=True) @ solved).T)


class Emmet(Rome):
    """Edits of a request are made together, from recall vectors found on the unedited model; mean keys only."""

    unused: ClassVar[tuple[str, ...]] = ("key_mode",)
    chain: ClassVar[tuple[str, ...]] = ("rome", "emmet")

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        began = time.perf_counter()
        updates = [Update() for _ in requests]
        edits = self.tokenised([edit for request in requests for edit in request])
        if edits:
            found = self.find(edits, self.layer, value_norms, add_to_output)
            vectors, keys = found.recall.vectors[:, 0].double().cpu(), found.key.double().cpu()
            solved = self.moments.solve(self.layer, keys)
            notes = self._notes(edits, found)
            first = 0
            for request, update in zip(requests, updates):
                mine = slice(first, first + len(request))
                first += len(request)
                if request:
                    update.add(self.module_name, equality_constrained(vectors[mine], keys[mine], solved[mine]))
                    update.notes = notes[mine]
        seconds = (time.perf_counter() - began) / max(1, len(requests))
        for update in updates:
            update.seconds = seconds
        return updates
