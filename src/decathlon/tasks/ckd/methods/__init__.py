"""Ways to train a multimodal recommender, and predictions that need no training of their own."""

from decathlon.tasks.ckd.methods.base import Method, Untrained

__all__ = ["Method", "Untrained"]
