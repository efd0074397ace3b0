"""What a method config says, made into an adapted model and its optimizer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.build import build, locate
from decathlon.errors import ConfigError
from decathlon.tasks.osd.adapters import Adapter
from decathlon.tasks.osd.groups import ATTENTION_AND_MLP, hidden_matrices
from decathlon.tasks.osd.optimizers import FullRank, ProjectedOptimizer


class Recipe:
    """A method: its optimizer and, for LoRA and its like, its adapter.

    Every method has two learning rates at the same places: ``lr`` for embeddings, head and norms, and ``scale lr`` for
    the matrices of attention and MLP, or for the factors in their place.

    Args:
        method: the config: ``class`` (of the optimizer), ``adapter`` (None, or class and options), ``fixed_rank`` (of a
            method that has one), and options of the optimizer.
        lr, scale: see above. rank: of projected matrices and of factors. match: which matrices.

    Raises:
        ConfigError: one line, for what cannot be.
    """

    def __init__(
        self, method: Mapping[str, Any], lr: float, scale: float, rank: int, match: str | None = None
    ) -> None:  # fmt: skip
        self.spec = {key: value for key, value in method.items() if key not in ("adapter", "fixed_rank")}
        rank = method.get("fixed_rank") or rank
        self.lr, self.scale, self.rank, self.match = float(lr), float(scale), rank, match or ATTENTION_AND_MLP
        adapter: Mapping[str, Any] = method.get("adapter") or {}
        found = build({"rank": rank, "match": self.match, **adapter}, called="method.adapter") if adapter else None
        if found is not None and not isinstance(found, Adapter):
            raise ConfigError(f"method.adapter: {adapter['class']} is no decathlon.tasks.osd.adapters.Adapter")
        self.adapter: Adapter | None = found
        kind = locate(str(self.spec.get("class")))
        self.projects = not (isinstance(kind, type) and issubclass(kind, FullRank))
        # What is wrong with the options shows now, before anything is written.
        self._optimizer({"w": nn.Parameter(torch.zeros(2, 3))}, {})

    def install(self, model: nn.Module, seed: int) -> dict[str, Tensor]:
        """Adapt the model; the matrices, or the factors in their place, by name."""
        return self.adapter.install(model, seed) if self.adapter else hidden_matrices(model, self.match)

    def optimizer(self, model: nn.Module, hidden: Mapping[str, Tensor]) -> ProjectedOptimizer:
        """The optimizer of an adapted model, of which ``hidden`` is what ``install`` returned."""
        mine = {id(p) for p in hidden.values()}
        rest = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in mine}
        return self._optimizer(hidden, rest)

    def _optimizer(self, hidden: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> ProjectedOptimizer:
        low: dict[str, Any] = {"params": list(hidden.items())}
        low |= {"rank": self.rank, "scale": self.scale} if self.projects else {"lr": self.scale * self.lr}
        made = build(self.spec, [low], called="method", lr=self.lr)
        if not isinstance(made, ProjectedOptimizer):
            raise ConfigError(f"method={self.spec.get('name')}: {self.spec['class']} is no ProjectedOptimizer")
        if rest:
            made.add_param_group({"params": list(rest.items())})
        return made
