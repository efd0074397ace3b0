"""KELE (Zhang et al. 2024, arXiv 2408.12456): ROME whose recall vector also erases the old object."""

from dataclasses import dataclass
from typing import ClassVar

from decathlon.tasks.kele.editors.base import Options
from decathlon.tasks.kele.editors.rome import Rome, RomeOptions


@dataclass(frozen=True)
class KeleOptions(RomeOptions):
    """Options of KELE: ROME's with the erasure switched on.

    Args:
        alpha: weight of the erasure loss (reconstructed: 1). depth: k; the old object is pushed below the k-th largest
            logit (reconstructed: 20).
    """

    alpha: float = 1.0
    depth: int = 20


class Kele(Rome):
    """Erases the old object and injects the new one, in one rank-one update.

    With depth=1 or alpha=0 it is ROME; with gamma=0 it erases only (the ablation without injection).
    """

    options_class: ClassVar[type[Options]] = KeleOptions
    chain: ClassVar[tuple[str, ...]] = ("rome", "kele")
