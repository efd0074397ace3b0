"""An experiment's ``table`` section: how the jobs of its sweep are laid out in rows and columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from decathlon.errors import ConfigError
from decathlon.runner.job import Job
from decathlon.runner.planning import value_of

Cell = tuple[str, ...]


@dataclass
class Layout:
    """How the jobs of an experiment are laid out as a table (the experiment's ``table`` section)."""

    title: str
    rows: list[str]
    columns: list[str]
    metrics: dict[str, dict[str, Any]]
    paper: dict[str, Any] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)
    tune: dict[str, Any] | None = None
    marks: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    @property
    def keys(self) -> list[str]:
        """The keys whose values name a cell: rows, then columns."""
        return self.rows + self.columns

    @classmethod
    def of(cls, cfg: DictConfig, name: str) -> "Layout":
        """That of the composed experiment ``name``.

        Raises:
            ConfigError: it has none, or one with unknown keys or without metrics.
        """
        if cfg.get("table") is None:
            raise ConfigError(f"experiment={name} has no table section")
        section: Any = OmegaConf.to_container(cfg.table, resolve=True)
        try:
            layout = cls(**section)
        except TypeError as error:
            raise ConfigError(
                f"experiment={name}: table section: {str(error).replace('Layout.__init__() ', '')}"
            ) from None
        if not layout.metrics:
            raise ConfigError(f"experiment={name}: table.metrics names no metric")
        return layout


def values_of(job: Job, keys: Sequence[str]) -> dict[str, Any]:
    """What a job has for each of these keys: the names of its task, dataset and method, else values of its config."""
    names = {"task": job.task, "dataset": job.dataset, "method": job.method}
    return {key: names.get(key, value_of(job.config, key)) for key in keys}


def canonical(value: Any) -> str:
    """A value as a cell's name: 0.60 and 0.6, 1 and 1.0 are the same."""
    if isinstance(value, bool) or value is None:
        return str(value)
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)
