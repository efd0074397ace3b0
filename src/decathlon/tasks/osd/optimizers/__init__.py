"""Optimizers whose states live in a subspace of each weight's gradient, and their full-rank counterpart."""

from decathlon.tasks.osd.optimizers.base import ProjectedOptimizer
from decathlon.tasks.osd.optimizers.galore import Apollo, Fira, FullRank, GaLore
from decathlon.tasks.osd.optimizers.online import OnlineSubspaceDescent

__all__ = ["Apollo", "Fira", "FullRank", "GaLore", "OnlineSubspaceDescent", "ProjectedOptimizer"]
