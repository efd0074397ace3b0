"""Causal language models: loading, scoring, generation, taps into their layers. Knows no task."""

from decathlon.language.generation import generate, sample
from decathlon.language.layouts import Layout, layout_of
from decathlon.language.loading import load, preferred_dtype
from decathlon.language.scoring import Scores, next_logits, score, score_ids
from decathlon.language.smollm import fetch_smollm2
from decathlon.language.taps import run, tap
from decathlon.language.tiny import tiny_model, word_tokenizer
from decathlon.language.tokens import Bos, continuation_ids, encode, separator_id

__all__ = [
    "Bos",
    "Layout",
    "Scores",
    "continuation_ids",
    "encode",
    "fetch_smollm2",
    "generate",
    "layout_of",
    "load",
    "next_logits",
    "preferred_dtype",
    "run",
    "sample",
    "score",
    "score_ids",
    "separator_id",
    "tap",
    "tiny_model",
    "word_tokenizer",
]
