"""PMET (Li et al. 2024): MEMIT with separate recall vectors for the attention's and the MLP's output."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from decathlon.language.decoder import decoder_of
from decathlon.tasks.kele.editors.locate import Found
from decathlon.tasks.kele.editors.memit import Memit
from decathlon.tasks.kele.editors.observe import Observed
from decathlon.tasks.kele.editors.prompts import Prompted
from decathlon.tasks.kele.editors.recall import Inject


def branch_norms(observed: Observed) -> Tensor:
    """Norms of the MLP's and the attention's output at the subject, (rows, 2)."""
    wide = torch.promote_types(observed.values.dtype, torch.float32)
    both = torch.stack([observed.values[:, 0], observed.attention[:, 0]], dim=1).to(wide)
    return torch.linalg.vector_norm(both, dim=-1)


def add_to_branches(model: Any, layer: int) -> Inject:
    """Adds vector 0 to the MLP's output and vector 1 to the attention's, which in a sequential block the MLP reads."""
    decoder = decoder_of(model)
    mlp, norm = decoder.module("mlp", layer), decoder.module("mlp_norm", layer)

    def inject(observed: Observed, vectors: Tensor) -> Tensor:
        output = observed.hidden[:, 0]
        to_mlp, to_attention = vectors[:, 0].to(output.dtype), vectors[:, 1].to(output.dtype)
        if decoder.parallel:
            return output + to_attention + to_mlp
        middle = output - observed.values[:, 0] + to_attention
        return middle + mlp(norm(middle)) + to_mlp

    return inject


class Pmet(Memit):
    """Only the MLP's vector is used, and the residual is spread by square roots: lower layers take more of it."""

    chain: ClassVar[tuple[str, ...]] = ("memit", "pmet")

    def _found(self, edits: Sequence[Prompted]) -> Found:
        return self.find(edits, self.layer, branch_norms, add_to_branches(self.model, self.layer))

    def _target(self, found: Found) -> Tensor:
        return found.plain_value + found.recall.vectors[:, 0]

    @property
    def _watched(self) -> str:
        return decoder_of(self.model).name("down", self.layer)

    def _share(self, remaining: int) -> float:
        return math.sqrt(remaining)
