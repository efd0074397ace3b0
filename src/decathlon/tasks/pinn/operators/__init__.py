"""Gradient operators: ``update = operator(gradients)`` with ``(m, N) -> (N,)``."""

from decathlon.tasks.pinn.operators.base import GramOperator, Operator
from decathlon.tasks.pinn.operators.common_descent import MGDA, CAGrad, NashMTL, Sum
from decathlon.tasks.pinn.operators.conflict_free import IMTLG, ConFIG
from decathlon.tasks.pinn.operators.gram import gramian
from decathlon.tasks.pinn.operators.projection import GradDrop, PCGrad

__all__ = [
    "IMTLG",
    "MGDA",
    "CAGrad",
    "ConFIG",
    "GradDrop",
    "GramOperator",
    "NashMTL",
    "Operator",
    "PCGrad",
    "Sum",
    "gramian",
]
