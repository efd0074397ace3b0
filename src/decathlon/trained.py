"""What a finished job has trained: kept in its folder, loaded by :func:`decathlon.load`, used without a trainer.

A task offers it by two things. Its LightningModule has ``export(folder)``, which writes what was trained into a folder
of the job (weights as a dict of tensors, numbers, strings, lists and dicts: :func:`save`). Its config names, as
``task.trained``, a function ``load(folder, config)`` that makes an object of that folder and of the job's config. An
object that can answer a table has ``predict_rows(rows)`` too: of each row, a mapping of column to text, it returns a
mapping of new columns to values, or a text that says what is wrong with the row. With ``predict_file(path)`` it answers
``.pt`` files too, entry by entry.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from decathlon.build import locate
from decathlon.errors import DataError

FOLDER = "trained"
WEIGHTS = "trained.pt"
JOB = "job.yaml"
Row = dict[str, str]


class Predicts(Protocol):
    """An object that answers a table."""

    def predict_rows(self, rows: list[Row]) -> list[dict[str, Any] | str]:
        """The new columns of each row, or what is wrong with it."""
        ...


def save(folder: str | Path, state: dict[str, Any]) -> None:
    """Write a dict of tensors, numbers, strings, lists and dicts; tensors are moved to the CPU."""
    import torch

    torch.save(_on_cpu(state), Path(folder, WEIGHTS))


def _on_cpu(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


def state_of(folder: str | Path) -> dict[str, Any]:
    """What :func:`save` has written; nothing in it is executed.

    Raises:
        DataError: it is missing or damaged.
    """
    from decathlon.storage import load_state

    return load_state(Path(folder, WEIGHTS))


def load(folder: str | Path) -> Any:
    """What the job in ``folder`` has trained.

    Args:
        folder: of the job, or its part ``trained`` alone.

    Raises:
        UserError: in one line, there is no such job, or it keeps nothing that was trained.
    """
    place = _find(Path(folder).expanduser())
    try:
        job = yaml.safe_load((place / JOB).read_text(encoding="utf-8"))
        loader, config = job["load"], job["config"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        said = str(error).splitlines()[0]
        raise DataError(f"{place / JOB} cannot be read ({said}); run the job again with force=true") from error
    return locate(loader)(place, config)


def from_numbers(
    rows: list[Row], columns: Sequence[str], answer: Callable[[list[list[float]]], list[dict[str, Any] | str]]
) -> list[dict[str, Any] | str]:
    """``predict_rows`` for who reads numbers: ``answer`` gets those of the rows in which all columns are finite ones.

    Raises:
        DataError: the table lacks a column.
    """
    for name in columns if rows else ():
        if name not in rows[0]:
            raise DataError(f"the table has no column {name}; its columns: {', '.join(rows[0])}")
    found: list[dict[str, Any] | str] = []
    good: list[list[float]] = []
    for row in rows:
        numbers, fault = [], ""
        for name in columns:
            try:
                numbers.append(float(row[name]))
            except (TypeError, ValueError):
                fault = fault or f"{name}={row[name]!r} is no number"
        if not fault and not all(map(math.isfinite, numbers)):
            fault = "a number is not finite"
        found.append(fault)
        if not fault:
            good.append(numbers)
    answers = iter(answer(good) if good else [])
    return [fault or next(answers) for fault in found]


def _find(path: Path) -> Path:
    for place in (path, path / FOLDER):
        if (place / JOB).is_file():
            return place
    if not (path / "metrics.json").exists():
        raise DataError(f"{path} holds no finished job")
    raise DataError(
        f"{path} keeps nothing trained: its task trains nothing, or it ran before jobs kept it (run it with force=true)"
    )
