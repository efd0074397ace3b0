"""Online Subspace Descent: low-rank optimizer states without SVD (arXiv 2408.12857). Needs torch only."""

from decathlon.tasks.osd.groups import low_rank_groups
from decathlon.tasks.osd.optimizers import Apollo, Fira, FullRank, GaLore, OnlineSubspaceDescent
from decathlon.tasks.osd.optimizers.shards import shard
from decathlon.tasks.osd.pca import pca_gradient, pca_loss

__all__ = [
    "Apollo",
    "Fira",
    "FullRank",
    "GaLore",
    "OnlineSubspaceDescent",
    "low_rank_groups",
    "pca_gradient",
    "pca_loss",
    "shard",
]
