"""Collaborative filtering by click labels: matrix factorisation, LightGCN, SASRec; trained once, then frozen."""

from decathlon.tasks.cora.collaborative.models import MODELS, Collaborative
from decathlon.tasks.cora.collaborative.training import check_collaborative, of_state, trained

__all__ = ["MODELS", "Collaborative", "check_collaborative", "of_state", "trained"]
