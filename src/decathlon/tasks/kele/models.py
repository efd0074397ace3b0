"""The model that is edited: the small world's own, or a pretrained one."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decathlon import language
from decathlon.language.fingerprint import files_fingerprint
from decathlon.language.loading import SMOLLM2
from decathlon.tasks.kele.world import training as world_training
from decathlon.tasks.kele.world.training import WorldTraining

WORLD = "world"


@dataclass(frozen=True)
class ModelSpec:
    """Which model: ``world`` (trained here on the run's own world), or a name that ``language.load`` knows.

    ``training`` are options of ``WorldTraining`` and belong to ``world`` alone; ``dtype`` belongs to the others.
    """

    name: str
    seed: int = 0
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.is_world:
            self.world_training()
        elif self.training:
            raise ValueError(f"training options belong to model=world, not to model={self.name}")

    @property
    def is_world(self) -> bool:
        """Whether the model is trained here."""
        return self.name == WORLD

    @property
    def key(self) -> str:
        """The model's identity in the names of cached files; of a folder or a file, also which version of it."""
        plain = f"{self.name}-{self.dtype}"
        if self.name in (WORLD, SMOLLM2) or not Path(self.name).exists():
            return plain
        return f"{plain}-{files_fingerprint(self.name)}"

    def world_training(self) -> WorldTraining:
        """The training of the world's model for this run's seed."""
        known = {field.name for field in dataclasses.fields(WorldTraining)} - {"seed"}
        stray = sorted(set(self.training) - known)
        if stray:
            raise ValueError(f"training has no option {stray[0]}; choose {', '.join(sorted(known))}")
        return WorldTraining(seed=self.seed, **self.training)

    def prepare(self, root: str | Path) -> None:
        """Train the world's model unless that was done before; a pretrained model is fetched by ``load``."""
        if self.is_world:
            world_training.prepare(root, self.world_training())

    def load(self, root: str | Path) -> tuple[Any, Any]:
        """The model in evaluation mode, frozen, and its tokenizer."""
        if self.is_world:
            return world_training.load(root, self.world_training())
        return language.load(self.name, root, self.dtype)
