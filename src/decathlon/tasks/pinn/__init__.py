"""ConFIG: conflict-free gradients for physics-informed networks and multi-task learning (arXiv 2408.11104).

The operators, the weightings and M-ConFIG need torch only; MGDA and CAGrad import SciPy when they are called.
"""

from decathlon.tasks.pinn.backward import Backward, backward
from decathlon.tasks.pinn.errors import NotFiniteError
from decathlon.tasks.pinn.momentum import MConFIG
from decathlon.tasks.pinn.operators import IMTLG, MGDA, CAGrad, ConFIG, GradDrop, NashMTL, Operator, PCGrad
from decathlon.tasks.pinn.weightings import DWA, FAMO, LRA, LS, RLW, SI, UW, MinMax, ReLoBRaLo, Weighting

__all__ = [
    "DWA",
    "FAMO",
    "IMTLG",
    "LRA",
    "LS",
    "MGDA",
    "RLW",
    "SI",
    "UW",
    "Backward",
    "CAGrad",
    "ConFIG",
    "GradDrop",
    "MConFIG",
    "MinMax",
    "NashMTL",
    "NotFiniteError",
    "Operator",
    "PCGrad",
    "ReLoBRaLo",
    "Weighting",
    "backward",
]
