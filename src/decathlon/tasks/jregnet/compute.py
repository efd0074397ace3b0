"""Settings of the process that make many tiny tensor operations fast."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@contextmanager
def small_nets(threads: int = 1) -> Iterator[None]:
    """Few threads, and memory that is kept when freed; the number of threads is put back at the end.

    One net of this size loses more in handing work to threads than it gains (much more on a busy machine); ten stacked
    ones may gain on an idle one. And the C library gives blocks of a few MB back to the system at every free: fetching
    them anew costs as much as the arithmetic, so glibc is told to keep them. Elsewhere that part does nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    _keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 512 << 20)
    mallopt(_M_TOP_PAD, 16 << 20)
