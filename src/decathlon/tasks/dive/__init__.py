"""DIVE: subgraph disagreement for graph out-of-distribution generalisation (Sun et al., KDD 2024). Needs torch only."""

from decathlon.tasks.dive.dive import Dive, Masking, Output
from decathlon.tasks.dive.masks import Pairs, sample
from decathlon.tasks.dive.overlap import diversity, independent_jaccard, pairwise_jaccard

__all__ = ["Dive", "Masking", "Output", "Pairs", "diversity", "independent_jaccard", "pairwise_jaccard", "sample"]
