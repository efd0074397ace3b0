"""A progress bar for work that takes more than a moment."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
DELAY = 2.0  # seconds before a bar is worth looking at
EVERY = 60.0  # seconds between two lines in a log


def track(iterable: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """The items of ``iterable``, with a bar on stderr from the third second on.

    Where stderr is no terminal, a line is logged every minute instead. Rank zero alone shows anything.

    Args:
        what: what is being done, in a few words.
        total: how many items there are; by default ``len(iterable)``, if it has one.
    """
    ranks = {os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK")}  # torchrun's, and Lightning's own
    if ranks != {"0"}:
        yield from iterable
        return
    if total is None:
        size = getattr(iterable, "__len__", None)
        total = size() if callable(size) else None
    yield from _bar(iterable, what, total) if sys.stderr.isatty() else _lines(iterable, what, total)


def _lines(iterable: Iterable[T], what: str, total: float | None) -> Iterator[T]:
    began = said = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if now - said > EVERY:
            said = now
            left = ""
            if total and done:
                left = f" of {total:g}, about {(now - began) / done * (total - done) / 60:.0f} min left"
            log.info("%s: %d%s", what, done, left)
        yield item


def _bar(iterable: Iterable[T], what: str, total: float | None) -> Iterator[T]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
