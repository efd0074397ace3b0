"""Reference solutions as the test data of a PINN; its training points are drawn inside the training step."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from decathlon.build import build
from decathlon.equations import references
from decathlon.errors import ConfigError, DataError
from decathlon.files import cached
from decathlon.storage import digest, processed_path
from decathlon.tasks.pinn.multitask.batches import Steps
from decathlon.tasks.pinn.problems.base import Problem

# What of a problem's config says how it is trained, and not what its solution is.
NOT_IN_REFERENCE = ("points", "losses", "engine")


def make_problem(dataset: Mapping[str, Any]) -> Problem:
    """The problem of a dataset config; ``points_scale`` shrinks its numbers of points.

    Raises:
        ConfigError: in one line, what is wrong with it.
    """
    name = dataset.get("name")
    spec: dict[str, Any] = {"name": name, **dataset["problem"]}
    counts, scale = spec.get("points"), float(dataset.get("points_scale", 1.0))
    if counts is not None:
        try:
            spec["points"] = {loss: max(2, round(int(count) * scale)) for loss, count in counts.items()}
        except (TypeError, ValueError, AttributeError):
            raise ConfigError(f"dataset={name}: points={counts}: give a whole number to each loss") from None
    problem = build(spec, called="dataset")
    if not isinstance(problem, Problem):
        raise ConfigError(f"dataset={name}: {spec['class']} is no decathlon.tasks.pinn.problems.Problem")
    return problem


class Collocation(LightningDataModule):
    """Validation and test data: the test points with their exact fields, and the official file's where it is found.

    An epoch of training is the steps between two evaluations; its batches only count them off.

    Args:
        root: data folder; slow references are kept in ``<root>/processed/pinn``.
        dataset: dataset config.
        seed: not used: the module draws the points.
    """

    def __init__(self, root: str | Path, dataset: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.root, self.problem = Path(root), make_problem(dataset)
        self.spec = dict(dataset["problem"])
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
        key, written = self.problem.reference_key, _source(type(self.problem))
        if key is None or written is None:
            return self.problem.reference()
        spec = {name: value for name, value in self.spec.items() if name not in NOT_IN_REFERENCE}
        name = f"{key}-{digest(written, spec, self.problem.test_points())}.npy"
        path = processed_path(self.root, f"pinn/{name}")
        return torch.from_numpy(cached(path, lambda: self.problem.reference().numpy(), _save, _load))

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


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is broken ({error}); delete it and it is made again") from error


def _source(kind: type[Problem]) -> str | None:
    """The text of all the files that a problem's reference may come from; None where it was not written in a file."""
    modules = [each.__module__ for each in kind.__mro__ if issubclass(each, Problem)]
    try:
        return "".join(inspect.getsource(sys.modules[name]) for name in [*modules, references.__name__])
    except (OSError, TypeError, KeyError):
        return None
