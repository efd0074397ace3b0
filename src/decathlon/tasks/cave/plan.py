"""What a planner returns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.objective import objective


@dataclass
class Plan:
    """An assignment of every task to vehicles, for S scenarios.

    Attributes:
        assignment: (S, K, N) bool, task k has a replica on vehicle n. A task that no vehicle can serve has none.
        objective: (S,) J of the assignment, see ``objective``.
        reliability: (S, K) planned probability that at least one replica succeeds; 1 for padding.
        infeasible: (S, K) bool, the target is out of reach and the task is planned by best effort.
        history: (iterations, S) cost of the best feasible assignment so far, for planners that iterate.
        exact: (S,) bool, proven optimal; None for planners that prove nothing.
    """

    assignment: Tensor
    objective: Tensor
    reliability: Tensor
    infeasible: Tensor
    history: Tensor | None = None
    exact: Tensor | None = None

    @classmethod
    def of(cls, epoch: Epoch, assignment: Tensor, history: Tensor | None = None, exact: Tensor | None = None) -> "Plan":
        """The plan of an assignment, judged by what ``epoch`` knows."""
        planned = torch.where(epoch.tasks, epoch.reliability(assignment), 1.0)
        return cls(assignment, objective(epoch, assignment), planned, epoch.infeasible, history, exact)
