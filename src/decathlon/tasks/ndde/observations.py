"""Observed values of some unknowns at some times."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.tasks.ndde.problem import DDE


@dataclass
class Observations:
    """Times (N,) and values (n, N), float64; NaN where nothing was observed."""

    times: Tensor
    values: Tensor

    @property
    def seen(self) -> Tensor:
        """Which values are there, (n, N)."""
        return ~torch.isnan(self.values)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return int(self.seen.sum())


def observe(problem: DDE, times: Any, values: Any) -> Observations:
    """Check observations.

    Args:
        times: (N,). values: (n, N), or (N,) for one unknown; NaN where nothing was observed.

    Raises:
        ValueError: in one line: wrong shapes, times outside of the interval, infinite values, fewer values than
            unknowns.
    """
    t, y = _numbers(times, "times"), _numbers(values, "values")
    t = t.reshape(-1) if t.ndim == 0 else t
    y = y.reshape(1, -1) if y.ndim <= 1 and problem.size == 1 else y
    if t.ndim != 1 or y.shape != (problem.size, len(t)):
        wanted = f"({len(t)},)" if problem.scalar else f"({problem.size}, {len(t)})"
        raise ValueError(f"values of the shape {tuple(y.shape)} for {len(t)} times: they must be {wanted}")
    start, end = problem.span
    if not bool(((t > start - 1e-12) & (t <= end * (1 + 1e-12) + 1e-12)).all()):
        raise ValueError(
            f"observation times from {float(t.min()):g} to {float(t.max()):g}: the interval is {start:g} to {end:g}"
        )
    if bool(torch.isinf(y).any()):
        raise ValueError("observed values must be finite, or NaN where they are missing")
    found = Observations(t.clamp(start, end), y)
    needed = len(problem.slots)
    if found.count < needed:
        names = ", ".join(slot.name for slot in problem.slots)
        raise ValueError(f"{found.count} observed values for {needed} unknowns ({names}): give at least as many")
    return found


def _numbers(given: Any, what: str) -> Tensor:
    try:
        found = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"the observed {what} are no numbers") from None
    return found.detach().to("cpu", torch.float64)


def add_noise(values: Tensor, level: float, random: torch.Generator, shared: bool = True) -> Tensor:
    """Multiplicative noise: ``y (1 + level e)`` with standard normal e.

    Args:
        values: (n, N). level: 0 gives them back exactly.
        shared: one e for each time, the same for all unknowns (as in the paper); else for each value.
    """
    draws = torch.randn(1 if shared else len(values), values.shape[1], generator=random, dtype=torch.float64)
    return values if level == 0 else values * (1 + level * draws)


def read_csv(path: str | Path, names: list[str]) -> tuple[Tensor, Tensor]:
    """Times (N,) and values (n, N) from a CSV file: the first column is the time, then one for each unknown.

    Columns are found by the unknowns' names if all are there, else by their order. Empty cells are missing values.

    Raises:
        DataError: in one line, what is wrong with the file.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"observations={path}: there is no such file") from None
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"observations={path} cannot be read: {str(error).splitlines()[0]}") from None
    table.columns = [str(name).strip() for name in table.columns]
    if set(names) <= set(table.columns[1:]):
        table = table[[table.columns[0], *names]]
    if table.shape[1] != 1 + len(names):
        raise DataError(f"observations={path} has {table.shape[1]} columns: it needs t and {', '.join(names)}")
    if len(table) == 0:
        raise DataError(f"observations={path} has no rows")
    for column in table.columns:
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = numbers.isna() & table[column].notna()
        if bad.any():
            row = int(np.flatnonzero(bad.to_numpy())[0])
            raise DataError(f"observations={path}, line {row + 2}: {column} = {table[column].iloc[row]!r} is no number")
        table[column] = numbers
    content = table.to_numpy(dtype=np.float64)
    if np.isnan(content[:, 0]).any():
        raise DataError(
            f"observations={path}, line {int(np.flatnonzero(np.isnan(content[:, 0]))[0]) + 2}: the time is missing"
        )
    return torch.from_numpy(content[:, 0].copy()), torch.from_numpy(content[:, 1:].T.copy())
