"""Problems, observations and reference solutions of a dataset config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from decathlon.build import build
from decathlon.errors import ConfigError, DataError
from decathlon.files import find
from decathlon.randomness import generator
from decathlon.tasks.ndde.observations import Observations, add_noise, observe, read_csv
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solution import fitting_step, solve, uniform_times
from decathlon.tasks.ndde.unknown import Unknown, UnknownHistory

ACCURACY = 1e-10


def make_problem(dataset: Mapping[str, Any]) -> DDE:
    """The problem of a dataset config, with its true delays and parameters.

    Raises:
        ConfigError: in one line, what is wrong with it.
    """
    problem = build(dict(dataset["problem"]), called="dataset.problem")
    if not isinstance(problem, DDE):
        raise ConfigError(f"{dataset['problem']['class']} makes no decathlon.tasks.ndde.DDE")
    return problem


def make_inverse(problem: DDE, dataset: Mapping[str, Any]) -> DDE:
    """The same problem with the ``unknown`` of the dataset config unknown.

    Each entry is a name with a start, or with the arguments of ``Unknown``; ``history`` has those of
    ``UnknownHistory``.
    """
    named = {str(name): value for name, value in dict(dataset.get("unknown") or {}).items()}
    history = named.pop("history", None)
    try:
        start = {n: Unknown(**v) if isinstance(v, Mapping) else Unknown(float(v)) for n, v in named.items()}
        made = problem.unknown(**start)
        if history is not None:
            size = None if problem.scalar else problem.size
            made = made.known(history=UnknownHistory(size=size, **dict(history)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"dataset.unknown: {error}") from error
    return made


def observation_times(dataset: Mapping[str, Any], problem: DDE, points: int | None) -> Tensor:
    """The paper's times of a dataset; or ``points`` equidistant ones, from one step after the start to the end."""
    listed = (dataset.get("observed") or {}).get("times")
    if points is None and listed is None:
        raise ConfigError("the dataset lists no observed times: set observed_points")
    if points is None:
        return torch.tensor([float(t) for t in listed or []], dtype=torch.float64)
    if points < 1:
        raise ConfigError(f"observed_points={points} must be at least 1")
    start, end = problem.span
    return start + (end - start) * torch.arange(1, points + 1, dtype=torch.float64) / points


class DelayData(LightningDataModule):
    """The problem of a job, its observations if it is an inverse one, and its reference solution.

    Args:
        root: data folder, for ``observations=dde23``.
        dataset: dataset config: ``problem``, and for inverse problems ``unknown`` and ``observed`` (``times``,
            ``file`` of the paper's own points, ``only``: the unknowns that are observed).
        observations: ``exact`` (made by an accurate solver), ``dde23`` (the paper's points), or the path of a CSV file.
        noise: level of the multiplicative noise. noise_kind: ``paper`` (the same draws for all unknowns) or
            ``independent``.
        observed_points: how many equidistant times, or None: those of the dataset.
        seed: of the noise.
    """

    def __init__(
        self, root: str | Path, dataset: dict[str, Any], observations: str = "exact", noise: float = 0.0,
        noise_kind: str = "paper", observed_points: int | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.root, self.dataset, self.source = Path(root), dataset, str(observations)
        self.noise, self.noise_kind, self.seed = float(noise), noise_kind, int(seed)
        if noise_kind not in ("paper", "independent"):
            raise ConfigError(f"noise_kind={noise_kind} is unknown; choose paper or independent")
        if not 0 <= self.noise < float("inf"):
            raise ConfigError(f"noise={noise} must not be negative")
        self.truth = make_problem(dataset)
        self.inverse = bool(dataset.get("unknown"))
        self.problem = make_inverse(self.truth, dataset) if self.inverse else self.truth
        self.observed_points = observed_points
        self.blocks = 1
        self.observed: Observations | None = None
        self.reference: Tensor | None = None
        self.times = uniform_times(self.truth)

    @property
    def own_data(self) -> bool:
        """Whether the observations are a user's: then no truth is known."""
        return self.source not in ("exact", "dde23")

    def setup(self, stage: str | None = None) -> None:
        if self.reference is None and not (self.inverse and self.own_data):
            self.reference = self._solution(self.times)
        if self.inverse and self.observed is None:
            try:
                self.observed = self._observe()
            except ValueError as error:
                raise ConfigError(f"observations={self.source}: {error}") from error

    def _solution(self, times: Tensor) -> Tensor:
        if self.truth.exact is not None:
            return self.truth.instance().rows(self.truth.exact(times), len(times), "the exact solution")
        # Half the step that the accuracy takes: never the very mesh of a solver that is judged by it.
        return solve(self.truth, fitting_step(self.truth.instance(), ACCURACY) / 2).rows(times)

    def _observe(self) -> Observations:
        if self.own_data:
            times, values = read_csv(self.source, self.problem.names)
            return observe(self.problem, times, self._masked(values))
        if self.source == "dde23":
            times, values = self._paper_points()
        else:
            times = observation_times(self.dataset, self.truth, self.observed_points)
            values = self._solution(times)
        random = generator("noise", self.seed)
        values = add_noise(values, self.noise, random, shared=self.noise_kind == "paper")
        return observe(self.problem, times, self._masked(values))

    def _masked(self, values: Tensor) -> Tensor:
        """Without the unknowns that are not observed."""
        only = (self.dataset.get("observed") or {}).get("only")
        if only is None:
            return values
        values = values.clone()
        for row, name in enumerate(self.problem.names):
            if name not in only:
                values[row] = float("nan")
        return values

    def _paper_points(self) -> tuple[Tensor, Tensor]:
        name = (self.dataset.get("observed") or {}).get("file")
        if name is None:
            raise ConfigError(f"observations=dde23: the paper has no points for dataset={self.dataset.get('name')}")
        path = find(self.root, [str(name)])
        if path is None:
            raise DataError(f"{name} not found in {self.root}; put it there (data_dir=...), it cannot be downloaded")
        table, values = read_csv(path, [f"y_{j + 1}" for j in range(self.truth.size)])
        return table, values

    def train_dataloader(self) -> DataLoader:
        steps: Any = range(self.blocks)
        return DataLoader(steps, batch_size=None)

    def test_dataloader(self) -> DataLoader:
        one: Any = range(1)
        return DataLoader(one, batch_size=None)
