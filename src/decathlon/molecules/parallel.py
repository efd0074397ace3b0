"""Featurisation on all cores, with results that do not depend on how many there are."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from decathlon.progress import track

T = TypeVar("T")
log = logging.getLogger(__name__)

CHUNK = 1000
WORTH_PROCESSES = 4000  # below that many molecules starting processes costs more than it saves


def map_chunks(
    function: Callable[..., T], items: Sequence[Any], processes: int | None = None, what: str = "", **options: Any
) -> list[T]:
    """``function(chunk, **options)`` for consecutive chunks of ``items``, in order.

    Args:
        function: importable by name; gets a list.
        processes: number of worker processes; None: one per core for long lists, none for short ones.
        what: what is done, for a progress bar.
    """
    from joblib import Parallel, cpu_count, delayed

    chunks = [list(items[start : start + CHUNK]) for start in range(0, len(items), CHUNK)]
    if processes is None:
        processes = cpu_count() if len(items) >= WORTH_PROCESSES else 1
    processes = min(processes, len(chunks))
    if processes <= 1:
        return [function(chunk, **options) for chunk in track(chunks, what or function.__name__)]
    parallel = Parallel(n_jobs=processes, return_as="generator")
    parts = parallel(delayed(function)(chunk, **options) for chunk in chunks)
    return list(track(parts, what or function.__name__, len(chunks)))


def featurise(
    function: Callable[..., dict[str, np.ndarray]],
    smiles: Sequence[str],
    processes: int | None = None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """A function of ``decathlon.molecules.features`` for any number of SMILES: its arrays, concatenated."""
    parts = map_chunks(function, smiles, processes, f"computing {function.__name__}", **options) or [
        function([], **options)
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
