"""Pruning of training data: choose before each epoch which samples to train on. Needs torch only.

``decathlon.pruning.callback`` switches it on in a Lightning ``Trainer``; nothing else here imports Lightning.
"""

from decathlon.pruning.base import Pruner, kept, largest
from decathlon.pruning.dynamic import UCB, EpsilonGreedy, InfoBatch, RankLoss, SoftRandom
from decathlon.pruning.evidence import Evidence
from decathlon.pruning.informed import (
    EL2N,
    ContextualDiversity,
    Craig,
    DatasetPruning,
    DeepFool,
    Entropy,
    Forgetting,
    Glister,
    GraNd,
    Herding,
    Influence,
    KMeans,
    LeastConfidence,
)
from decathlon.pruning.reference import EMA, Reference, mean_lag
from decathlon.pruning.sampler import EpochSampler, split_batches
from decathlon.pruning.static import ByScore, Fixed, Full, HardRandom

__all__ = [
    "EL2N",
    "EMA",
    "UCB",
    "ByScore",
    "ContextualDiversity",
    "Craig",
    "DatasetPruning",
    "DeepFool",
    "Entropy",
    "EpochSampler",
    "EpsilonGreedy",
    "Evidence",
    "Fixed",
    "Forgetting",
    "Full",
    "Glister",
    "GraNd",
    "HardRandom",
    "Herding",
    "Influence",
    "InfoBatch",
    "KMeans",
    "LeastConfidence",
    "Pruner",
    "RankLoss",
    "Reference",
    "SoftRandom",
    "kept",
    "largest",
    "mean_lag",
    "split_batches",
]
