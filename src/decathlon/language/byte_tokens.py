"""Raw bytes as tokens: a vocabulary of 256 and a few special tokens, with nothing to download."""

from collections.abc import Sequence
from typing import Any

import numpy as np

BYTES = 256


def byte_ids(text: str | bytes) -> np.ndarray:
    """The UTF-8 bytes of a text as ids 0 to 255, uint8; the fast way for whole corpora."""
    return np.frombuffer(text.encode() if isinstance(text, str) else text, dtype=np.uint8)


def byte_tokenizer(specials: Sequence[str] = ("<pad>", "<bos>", "<eos>")) -> Any:
    """A transformers tokenizer whose ids 0 to 255 are the bytes of UTF-8; special tokens come after them.

    It puts nothing before or after a text. A special token is recognised inside texts too, as with other tokenizers.

    Args:
        specials: ``<pad>``, ``<bos>`` and ``<eos>`` also become the tokenizer's padding, BOS and EOS token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {_character(byte): byte for byte in range(BYTES)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    roles = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{role: token for role, token in roles.items() if token in specials}
    )


def _character(byte: int) -> str:
    """The printable character that stands for a byte in byte-level tokenizers: itself, or one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(BYTES + [other for other in range(BYTES) if other not in printable].index(byte))
