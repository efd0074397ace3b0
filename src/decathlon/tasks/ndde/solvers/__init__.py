"""Solvers of forward and inverse problems, all on the same problem object."""

from decathlon.tasks.ndde.solvers.base import Solver
from decathlon.tasks.ndde.solvers.peers import DDEint, JiTCDDE, TorchDDE
from decathlon.tasks.ndde.solvers.pinn import Pinn
from decathlon.tasks.ndde.solvers.shooting import Classical, Shooting
from decathlon.tasks.ndde.solvers.steps import Steps
from decathlon.tasks.ndde.solvers.windows import Spectral, Windows

__all__ = ["Classical", "DDEint", "JiTCDDE", "Pinn", "Shooting", "Solver", "Spectral", "Steps", "TorchDDE", "Windows"]
