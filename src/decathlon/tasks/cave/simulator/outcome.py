"""What became of the tasks of a simulation, and what one scenario of it looked like."""

from dataclasses import dataclass, field

from torch import Tensor

from decathlon.tasks.cave.simulator.replicas import Replicas

WAITING, RUNNING, DONE, FAILED = range(4)


@dataclass
class Outcome:
    """What became of the tasks of S scenarios, padded to A.

    Attributes:
        arrival: (S, A) s; infinite for padding. finish: (S, A) s, of the first returned replica; infinite without one.
        status: (S, A) WAITING, RUNNING, DONE or FAILED at the end.
        replicas: (S, A) how many were started. planned: (S, A) reliability at its last decision; NaN before one.
        hopeless: (S, A) bool, planned by best effort at its last decision.
        spent, wasted: (S,) Gcycle computed, and that part of it whose replica was cancelled or lost.
        offered: (S,) Gcycle that vehicles in range and the ego could have computed, in the counted span.
        used: (S,) Gcycle computed in the counted span.
        inside: (S, ticks) tasks in the system at each tick.
        objective: (S,) sum of J over decisions; decisions: (S,) how many had tasks.
        seconds: of planning, for the whole batch.
    """

    arrival: Tensor
    finish: Tensor
    status: Tensor
    replicas: Tensor
    planned: Tensor
    hopeless: Tensor
    spent: Tensor
    wasted: Tensor
    offered: Tensor
    used: Tensor
    inside: Tensor
    objective: Tensor
    decisions: Tensor
    seconds: float = 0.0


@dataclass
class Recording:
    """What one scenario looked like, for figures; plain numbers.

    Attributes:
        frames: per tick the time, and per lender in range its column, position, and Gcycle/s.
        replicas: per replica task, vehicle, began, sent, computed, ended, and its fate.
        arrivals: s.
    """

    scenario: int
    reach: float
    frames: list[dict] = field(default_factory=list)
    replicas: list[dict] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)

    def log(self, rows: Replicas, end: Tensor, fate: "Tensor | str") -> None:
        """Keep replicas that are over; ``fate`` is a word, or 0 returned first, 1 cancelled, 2 failed for each."""
        names = ("returned first", "cancelled", "failed")
        for place in range(len(rows)):
            self.replicas.append(
                {
                    "task": int(rows.task[place]), "vehicle": int(rows.vehicle[place]),
                    "began": float(rows.began[place]), "sent": float(rows.sent[place]),
                    "computed": float(rows.computed[place]), "ended": float(end[place]),
                    "fate": fate if isinstance(fate, str) else names[int(fate[place])],
                }
            )  # fmt: skip
