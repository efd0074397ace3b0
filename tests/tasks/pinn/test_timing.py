"""Seconds per step: what is timed, with a clock and a GPU that are simulated."""

import math

import pytest

from decathlon.tasks.pinn import timing
from decathlon.tasks.pinn.timing import StepTimer


class Machine:
    """A GPU that works behind the program: a step only queues its work, and ``wait`` lets the clock catch up."""

    def __init__(self) -> None:
        self.clock, self.queued, self.waits = 0.0, 0.0, 0

    def wait(self) -> None:
        self.clock, self.queued = self.clock + self.queued, 0.0
        self.waits += 1


def run(monkeypatch: pytest.MonkeyPatch, timer: StepTimer, costs: list[float], every: int, steps: int) -> Machine:
    """Steps whose losses take turns, one of ``costs`` each; a measurement costs 1000."""
    machine = Machine()
    monkeypatch.setattr(timing, "perf_counter", lambda: machine.clock)
    for step in range(steps):
        timer.begin()
        machine.queued += costs[step % len(costs)] + (1000 if every and step % every == 0 else 0)
        timer.end(step, every, machine.wait)
    return machine


@pytest.mark.parametrize("costs", [[1.0, 9.0], [1.0, 2.0, 6.0], [float(k) for k in range(40)], [1.0] * 60])
@pytest.mark.parametrize("every", [0, 70, 100, 120])
def test_on_a_gpu_all_losses_count_equally_and_measurements_do_not(
    costs: list[float], every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = StepTimer(cycle=len(costs))
    machine = run(monkeypatch, timer, costs, every, 1000)
    assert timer.mean == pytest.approx(sum(costs) / len(costs))
    assert timer.steps >= len(costs) and machine.waits <= 40


def test_on_a_gpu_short_intervals_have_short_windows_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for every, timed in ((1, False), (2, False), (3, True), (4, True), (11, True)):
        timer = StepTimer(cycle=2)
        run(monkeypatch, timer, [1.0, 9.0], every, 300)
        assert timer.mean == pytest.approx(5) if timed else math.isnan(timer.mean)


def test_on_a_gpu_an_interrupted_window_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = StepTimer()
    machine = run(monkeypatch, timer, [1.0], 0, 45)  # a window began after step 39
    machine.clock += 1e6
    timer.interrupt()
    for step in range(45, 100):
        machine.queued += 1
        timer.end(step, 0, machine.wait)
    assert (timer.steps, timer.mean) == (10, 1)


def test_on_a_cpu_every_step_from_the_third_is_timed_but_those_of_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, clock = StepTimer(cycle=2), [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])
    for step in range(20):
        timer.begin()
        clock[0] += 1000 if step < 2 or step % 5 == 0 else 3
        timer.end(step, 5)
    assert (timer.steps, timer.mean) == (15, 3)
