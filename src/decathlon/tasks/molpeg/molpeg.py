"""MolPeg: keep the samples whose loss reacts most to the recent updates, in either direction."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from decathlon.pruning.base import Pruner, largest
from decathlon.pruning.reference import Reference, mean_lag

_CHOICES = {
    "selection": ("both", "easy", "hard"),
    "score_mode": ("train", "eval"),
    "reference_init": ("pretrained", "random"),
    "score_norm": ("all", "known"),
    "rescore": ("none", "epoch"),
}


class MolPeg(Pruner):
    """Source-free data pruning by the loss difference of the online and a slowly moving reference model.

    Chen et al., "Beyond Efficiency: Molecular Data Pruning for Enhanced Generalization" (NeurIPS 2024). The
    score of a sample is s = |l(x; theta) - l(x; xi)| with theta the online parameters before the step and xi
    their exponential moving average; the next epoch trains on the k samples with the largest scores. A sample
    that was never trained on has the score +inf, so the first ceil(1 / (1 - prune)) epochs walk through the
    whole set; a sample that is left out keeps its score bit for bit. Ties are broken at random by
    ``generator``.

    Args:
        n: number of training samples.
        prune: share that an epoch leaves out, in [0, 1).
        generator: the pruner's own source of randomness.
        beta: share of the reference that stays at a step; its mean lag is beta / (1 - beta) steps.
        selection: ``both`` tails; ``easy`` keeps the largest l(xi) - l(theta), ``hard`` the largest
            l(theta) - l(xi) (the paper's Fig. 3).
        score_mode: ``train`` scores with the dropout masks of training, as the published code does; ``eval``
            without dropout and with running BatchNorm statistics, at one more forward pass of the online
            model.
        reference_init: ``pretrained`` starts the reference from the online weights, ``random`` from fresh
            ones (as the published script does).
        ema_head: give the reference its own averaged head. By default both share the live one.
        score_norm: divide a sample's summed loss by ``all`` tasks or by its ``known`` labels.
        rescale: weight the kept samples by n / k. They all share it, so Adam does not see it; SGD does.
        rescore: ``none`` leaves the scores of pruned samples stale; ``epoch`` scores everything before each
            selection, which is another, dearer method.

    The last options but ``rescale`` concern who computes the losses; a loop of your own may ignore them.
    """

    wants_reference: ClassVar[bool] = True
    per_sample: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(
        self,
        n: int,
        prune: float = 0.6,
        generator: torch.Generator | None = None,
        beta: float = 0.5,
        selection: str = "both",
        score_mode: str = "train",
        reference_init: str = "pretrained",
        ema_head: bool = False,
        score_norm: str = "all",
        rescale: bool = False,
        rescore: str = "none",
    ) -> None:
        super().__init__(n, prune, generator)
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta <= 1:
            raise ValueError(f"beta={beta!r} is not the share of an average that stays; give a number from 0 to 1")
        given = (selection, score_mode, reference_init, score_norm, rescore)
        for (option, choices), value in zip(_CHOICES.items(), given, strict=True):
            if value not in choices:
                raise ValueError(f"{option}={value!r} is none; choose {', '.join(choices)}")
        self.beta = beta
        self.selection = selection
        self.score_mode = score_mode
        self.reference_init = reference_init
        self.ema_head = ema_head
        self.score_norm = score_norm
        self.rescale = rescale
        self.rescore, self.wants_rescoring = rescore, rescore == "epoch"
        self.lag = mean_lag(beta)
        self.score = torch.full((self.n,), math.inf)

    def reference(self, module: nn.Module, start: nn.Module | None = None) -> Reference:
        """The reference of ``module``: its copy (or a copy of ``start``) with this pruner's beta."""
        return Reference(module, self.beta, buffers=self.score_mode == "eval", start=start)

    def _select(self) -> tuple[Tensor, Tensor | None]:
        indices = largest(self.score, self.k, self.generator)
        weights = torch.full((self.k,), self.n / self.k) if self.rescale else None
        return indices, weights

    def _update(self, at: Tensor, online: Tensor, reference: Tensor | None) -> None:
        assert reference is not None
        difference = online - reference
        if self.selection == "both":
            self.score[at] = difference.abs()
        else:
            self.score[at] = difference if self.selection == "hard" else -difference
