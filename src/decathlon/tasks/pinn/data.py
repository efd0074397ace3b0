"""Reference solutions as the test data of a PINN; its training points are drawn inside the training step."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from decathlon.build import build, locate
from decathlon.errors import ConfigError
from decathlon.files import cached
from decathlon.tasks.pinn.multitask.batches import Steps
from decathlon.tasks.pinn.problems.base import Problem


def make_problem(dataset: Mapping[str, Any]) -> Problem:
    """The problem of a dataset config; ``points_scale`` shrinks its numbers of points.

    Raises:
        ConfigError: in one line, what is wrong with it.
    """
    spec, scale = dict(dataset["problem"]), float(dataset.get("points_scale", 1.0))
    spec["points"] = {name: max(2, round(int(count) * scale)) for name, count in spec["points"].items()}
    try:
        locate(str(spec["class"]))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"dataset={dataset.get('name')}: no class {spec['class']}: {error}") from error
    try:
        problem = build(spec)
    except TypeError as error:
        raise ConfigError(f"dataset={dataset.get('name')}: {error}") from error
    if not isinstance(problem, Problem):
        raise ConfigError(f"{spec['class']} is no decathlon.tasks.pinn.problems.Problem")
    return problem


class Collocation(LightningDataModule):
    """Validation and test data: the test points with their exact fields, and the official file's where it is found.

    An epoch of training is the steps between two evaluations; its batches only count them off.

    Args:
        root: data folder; slow references are kept in ``<root>/pinn``.
        dataset: dataset config.
        seed: not used: the module draws the points.
    """

    def __init__(self, root: str | Path, dataset: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.root, self.problem = Path(root), make_problem(dataset)
        self.batches = 1
        self.test_set: dict[str, Tensor] = {}

    def prepare_data(self) -> None:
        self._reference()

    def setup(self, stage: str | None = None) -> None:
        if self.test_set:
            return
        self.test_set = {"x": self.problem.test_points(), "fields": self._reference()}
        official = self.problem.official(self.root)
        if official is not None:
            self.test_set |= dict(zip(("official_x", "official_fields"), official))

    def _reference(self) -> Tensor:
        key = self.problem.reference_key
        if key is None:
            return self.problem.reference()
        # The grid is part of the name, so that a changed grid is not read from an old file.
        digest = hashlib.sha256(self.problem.test_points().numpy().tobytes()).hexdigest()[:12]
        path = self.root / "pinn" / f"{key}-{digest}.npy"
        found = cached(path, lambda: self.problem.reference().numpy(), _save, np.load)
        return torch.from_numpy(found)

    def train_dataloader(self) -> DataLoader:
        steps: Any = range(self.batches)
        return DataLoader(steps, sampler=Steps(self.batches), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        sets: Any = [self.test_set]
        return DataLoader(sets, sampler=Steps(1), batch_size=None)

    test_dataloader = val_dataloader


def _save(values: np.ndarray, path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, values)
