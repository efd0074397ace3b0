"""A byte-level BPE tokenizer of one's own, trained on a corpus."""

from collections.abc import Iterable
from typing import Any

END = "<eos>"


def train_bpe(texts: Iterable[str], vocabulary: int) -> Any:
    """A transformers tokenizer whose tokens are made of bytes: every text can be written in it.

    Args:
        texts: what it is trained on. vocabulary: how many tokens, the 256 bytes and ``<eos>`` among them.

    Raises:
        ValueError: one line, for a vocabulary that does not hold the bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocabulary < 257:
        raise ValueError(f"vocabulary={vocabulary} must be at least 257: the bytes and {END}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=sorted(alphabet), special_tokens=[END], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
