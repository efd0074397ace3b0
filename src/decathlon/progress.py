"""A progress bar for what is made before a training starts: data, caches, statistics."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """``items``, one by one, with a bar on the terminal that goes when they are done; elsewhere nothing is printed.

    Args:
        what: is made, as in ``scaffolds``. total: how many items there are.
    """
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield from items
        return
    from rich.progress import track as rich_track

    yield from rich_track(items, description=what, total=total, transient=True)
