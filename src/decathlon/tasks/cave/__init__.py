"""Crowdsourced vehicular edge computing (CAVE, Cao et al., GLOBECOM 2024), judged against the exact optimum.

A re-implementation from the paper's abstract; parameters and all that the abstract leaves open are reconstructed.
"""

from decathlon.tasks.cave.allocation import allocate
from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.objective import objective
from decathlon.tasks.cave.optimum import enumerate_all, lower_bound, optimum
from decathlon.tasks.cave.plan import Plan
from decathlon.tasks.cave.planners import Cave, Cover, Exact, FpsoMr, Greedy, Local
from decathlon.tasks.cave.polish import polish

__all__ = [
    "Cave",
    "Cover",
    "Epoch",
    "Exact",
    "FpsoMr",
    "Greedy",
    "Local",
    "Plan",
    "allocate",
    "enumerate_all",
    "lower_bound",
    "objective",
    "optimum",
    "polish",
]
