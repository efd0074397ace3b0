"""The mean wall time of an optimisation step, on a CPU and on a GPU that works behind the program."""

from collections.abc import Callable
from time import perf_counter


class StepTimer:
    """Adds up the wall time of the steps at which no cosines are measured.

    On a CPU every such step is timed by itself, from the third on. A GPU has to be waited for, which would slow
    every step down; there windows of consecutive steps are timed, between two waits. A window includes what happens
    between its steps (drawing points, loading batches), and holds every loss of M-ConFIG equally often. An interval
    between two measurements that is too short for a window is not timed.

    Args:
        cycle: steps after which M-ConFIG's losses have had equally many turns; 1 for other methods.
    """

    def __init__(self, cycle: int = 1) -> None:
        self.cycle = cycle
        self.seconds, self.steps = 0.0, 0
        self._step_began = 0.0
        self._window_began: float | None = None

    @property
    def mean(self) -> float:
        """Seconds per step; NaN if none was timed."""
        return self.seconds / self.steps if self.steps else float("nan")

    def begin(self) -> None:
        """A step begins."""
        self._step_began = perf_counter()

    def end(self, step: int, measured_every: int, wait: Callable[[], object] | None = None) -> None:
        """A step ends.

        Args:
            step: its number, from 0.
            measured_every: cosines are measured at steps 0, this, twice this, ...; 0: never.
            wait: waits for the GPU; None on a CPU.
        """
        if wait is not None:
            self._end_on_gpu(step, measured_every, wait)
        elif step >= 2 and (measured_every == 0 or step % measured_every):
            self._add(perf_counter() - self._step_began, 1)

    def interrupt(self) -> None:
        """Something else happens before the next step, such as an evaluation: a window that has begun is void."""
        self._window_began = None

    def _end_on_gpu(self, step: int, measured_every: int, wait: Callable[[], object]) -> None:
        """A window is the last steps of each period of 50 (or two cycles), counted from the last measurement."""
        period, place = max(50, 2 * self.cycle), step
        if measured_every > 0:
            period, place = min(period, measured_every), step % measured_every
        place %= period
        size = min(period - 1, max(10, self.cycle)) // self.cycle * self.cycle
        if size == 0:
            return
        if place == period - 1 - size:
            wait()
            self._window_began = perf_counter()
        elif place == period - 1 and self._window_began is not None:
            wait()
            self._add(perf_counter() - self._window_began, size)
            self._window_began = None

    def _add(self, seconds: float, steps: int) -> None:
        self.seconds += seconds
        self.steps += steps
