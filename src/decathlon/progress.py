"""A progress bar for work that takes more than a moment."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
DELAY = 2.0  # seconds before a bar is worth looking at


def track(iterable: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """The items of ``iterable``, with a bar on stderr from the third second on.

    Nothing is shown where stderr is no terminal, and by rank zero only.

    Args:
        what: what is being done, in a few words.
        total: how many items there are; by default ``len(iterable)``, if it has one.
    """
    ranks = {os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK")}  # torchrun's, and Lightning's own
    if not sys.stderr.isatty() or ranks != {"0"}:
        yield from iterable
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total is None:
        size = getattr(iterable, "__len__", None)
        total = size() if callable(size) else None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
    task = bar.add_task(escape(what), total=total)
    began, shown = time.monotonic(), False
    try:
        for item in iterable:
            if not shown and time.monotonic() - began > DELAY:
                bar.start()
                shown = True
            yield item
            bar.advance(task)
    finally:
        if shown:
            bar.stop()
