"""Causal language models: loading, scoring, generation, parts, taps and changes of their layers. Knows no task."""

from decathlon.language.activations import activation_statistics
from decathlon.language.byte_tokens import byte_ids, byte_tokenizer
from decathlon.language.corpus import Documents, TokenFile, Windows, write_tokens
from decathlon.language.decoder import Decoder, decoder_of
from decathlon.language.factory import new_llama
from decathlon.language.generation import generate, sample
from decathlon.language.increments import Increment, incremented
from decathlon.language.loading import load, preferred_dtype
from decathlon.language.prefix import block_input, from_block
from decathlon.language.scoring import Scores, next_logits, score, score_ids
from decathlon.language.smollm import fetch_smollm2
from decathlon.language.taps import run, tap
from decathlon.language.tiny import tiny_model, word_tokenizer
from decathlon.language.tokens import Bos, continuation_ids, encode, separator_id

__all__ = [
    "Bos",
    "Decoder",
    "Documents",
    "Increment",
    "Scores",
    "TokenFile",
    "Windows",
    "activation_statistics",
    "block_input",
    "byte_ids",
    "byte_tokenizer",
    "continuation_ids",
    "decoder_of",
    "encode",
    "fetch_smollm2",
    "from_block",
    "generate",
    "incremented",
    "load",
    "new_llama",
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
    "write_tokens",
]
