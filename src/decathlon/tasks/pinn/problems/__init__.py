"""The PDEs of the ConFIG benchmark, one short file each, and what a PDE of one's own is made of."""

from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.problems.beltrami import Beltrami
from decathlon.tasks.pinn.problems.burgers import Burgers, BurgersInverse
from decathlon.tasks.pinn.problems.conditions import (
    Condition,
    Dirichlet,
    Measurements,
    Neumann,
    OperatorCondition,
    Periodic,
    Robin,
    Sample,
)
from decathlon.tasks.pinn.problems.heat_multiscale import HeatMultiscale
from decathlon.tasks.pinn.problems.kovasznay import Kovasznay
from decathlon.tasks.pinn.problems.ks import KuramotoSivashinsky
from decathlon.tasks.pinn.problems.poisson5d import Poisson5D
from decathlon.tasks.pinn.problems.schrodinger import Schrodinger

__all__ = [
    "Beltrami",
    "Burgers",
    "BurgersInverse",
    "Condition",
    "Dirichlet",
    "HeatMultiscale",
    "Kovasznay",
    "KuramotoSivashinsky",
    "Measurements",
    "Neumann",
    "OperatorCondition",
    "Periodic",
    "Poisson5D",
    "Problem",
    "Robin",
    "Sample",
    "Schrodinger",
]
