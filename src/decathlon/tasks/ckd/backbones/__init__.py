"""Backbones: users and items as vectors, from ids and any part of the modalities."""

from decathlon.tasks.ckd.backbones.base import Backbone, Graph, make_backbone

__all__ = ["Backbone", "Graph", "make_backbone"]
