"""What every solver is: it begins with a problem, advances in blocks that can be interrupted, and has a result."""

from typing import Any, ClassVar

from torch import Tensor

from decathlon.errors import ConfigError
from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.solution import Solution
from decathlon.tasks.ndde.verdict import Fit


class Solver:
    """Solves a known problem (``forward``), or finds the unknowns of one from observations (``inverse``).

    Use: ``begin``, then ``advance`` for as many times as ``blocks`` says, then ``solution`` or ``fit``.
    """

    forward: ClassVar[bool] = True
    inverse: ClassVar[bool] = False
    problem: DDE
    observations: Observations | None
    seed: int

    def begin(self, problem: DDE, observations: Observations | None = None, seed: int = 0) -> None:
        """Take up a problem.

        Raises:
            ConfigError: in one line, if this solver cannot treat it.
        """
        self.problem, self.observations, self.seed = problem, observations, int(seed)
        self.accept(problem)
        if problem.slots and observations is None:
            names = ", ".join(slot.name for slot in problem.slots)
            raise ConfigError(f"{type(self).__name__} needs observations to estimate {names}")

    def accept(self, problem: DDE) -> None:
        """Refuse a problem that this solver cannot treat.

        Raises:
            ConfigError: in one line, why.
        """
        name = type(self).__name__
        if problem.slots and not self.inverse:
            unknown = ", ".join(slot.name for slot in problem.slots)
            raise ConfigError(f"{name} cannot estimate unknowns ({unknown}); choose Pinn, Windows or Shooting")
        if not problem.slots and not self.forward:
            raise ConfigError(f"{name} estimates unknowns, and this problem has none; choose another solver")

    @property
    def blocks(self) -> int:
        """How many times ``advance`` is to be called."""
        return 1

    def advance(self) -> dict[str, float]:
        """One block of the work; what may be logged of it."""
        raise NotImplementedError

    def solution(self) -> Solution:
        """The solution of a known problem."""
        return self.fit().solution

    def fit(self) -> Fit:
        """The result of an inverse problem."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers from which ``load_state_dict`` after ``begin`` takes up the work, to the same bits."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the work where ``state_dict`` was called."""

    def parameters(self) -> list[Tensor]:
        """What a network solver trains; empty for the others."""
        return []
