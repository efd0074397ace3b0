"""AlphaEdit (Fang et al. 2025): MEMIT whose update is projected onto directions that old keys do not use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decathlon.tasks.kele.editors.base import Options
from decathlon.tasks.kele.editors.memit import Memit, MemitOptions
from decathlon.tasks.kele.update import LowRank


def projected(residual: Tensor, keys: Tensor, projector: Tensor, penalty: float) -> LowRank:
    """R K^T P (K K^T P + penalty I)^-1, through a matrix of edits x edits.

    With Q = P K (P symmetric, P^2 = P) this is R ((Q Q^T + penalty I)^-1 Q)^T = R (Q (Q^T Q + penalty I)^-1)^T.

    Args:
        residual: R^T, (edits, width). keys: K^T, (edits, inner). projector: P, (inner, inner). All float64.
    """
    q = keys @ projector
    small = q @ q.T + penalty * torch.eye(len(q), dtype=q.dtype)
    return LowRank(residual.T, torch.linalg.solve(small, q).T)


@dataclass(frozen=True)
class AlphaEditOptions(MemitOptions):
    """Options of AlphaEdit.

    Args:
        threshold: eigenvectors of C with an eigenvalue below this are free to be changed; C is the mean second moment,
            without its ridge. Nothing is solved for, so C may be singular.
        penalty: L2, weight of the norm of the update.
    """

    threshold: float = 2e-2
    penalty: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.threshold > 0 or not self.penalty > 0:
            raise ValueError(f"threshold={self.threshold} and penalty={self.penalty} must be positive")


class AlphaEdit(Memit):
    """Edits of a request are made together; there are no earlier ones, so K_p of the paper is empty."""

    options_class: ClassVar[type[Options]] = AlphaEditOptions
    unused: ClassVar[tuple[str, ...]] = ("weight", "ridge", "identity")
    chain: ClassVar[tuple[str, ...]] = ("memit", "alphaedit")

    def projector(self, layer: int) -> Tensor:
        """P of a layer, (inner, inner), float64.

        Raises:
            ValueError: if no eigenvalue of C is below the threshold.
        """
        if not hasattr(self, "_projectors"):
            self._projectors: dict[int, Tensor] = {}
        if layer not in self._projectors:
            values, vectors = torch.linalg.eigh(self.moments.moment(layer))
            values = values - self.moments.added(layer)  # the ridge moves eigenvalues and leaves eigenvectors
            free = vectors[:, values < self.options.threshold]
            if not free.shape[1]:
                raise ValueError(
                    f"threshold={self.options.threshold} leaves no direction free at layer {layer}: "
                    f"the eigenvalues of C go from {float(values[0]):.2g} to {float(values[-1]):.2g}"
                )
            self._projectors[layer] = free @ free.T
        return self._projectors[layer]

    def _deltas(self, layer: int, residual: Tensor, keys: Tensor, groups: Sequence[Tensor]) -> list[LowRank]:
        projector = self.projector(layer)
        return [projected(residual[mine], keys[mine], projector, self.options.penalty) for mine in groups]
