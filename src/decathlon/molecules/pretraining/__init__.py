"""Pretraining of encoders on unlabelled molecules."""

from decathlon.molecules.pretraining.checkpoint import load_weights
from decathlon.molecules.pretraining.recipes import Recipe, parse_recipe
from decathlon.molecules.pretraining.sources import SOURCES, source_table
from decathlon.molecules.pretraining.train import pretrained

__all__ = ["SOURCES", "Recipe", "load_weights", "parse_recipe", "pretrained", "source_table"]
