"""Counterfactual knowledge distillation for multimodal recommendation (arXiv 2408.06360). Needs torch only."""

from decathlon.tasks.ckd.distillation import CounterfactualDistillation, counterfactual_weights, soft_cross_entropy

__all__ = ["CounterfactualDistillation", "counterfactual_weights", "soft_cross_entropy"]
