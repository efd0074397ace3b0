"""Causal language models: loading, scoring, generation, taps into their layers. Knows no task."""

from decathlon.language.generation import generate, sample
from decathlon.language.scoring import Scores, next_logits, score, score_ids
from decathlon.language.tokens import Bos, continuation_ids, encode, separator_id

__all__ = [
    "Bos",
    "Scores",
    "continuation_ids",
    "encode",
    "generate",
    "next_logits",
    "sample",
    "score",
    "score_ids",
    "separator_id",
]
