"""Small random models of each family and a word-level tokenizer: for tests and smoke runs, without any download."""

from collections.abc import Sequence
from typing import Any

import torch

FAMILIES = ("gpt2", "gptj", "llama")


def word_tokenizer(words: Sequence[str], unknown: str = "<unk>", padding: str = "<pad>") -> Any:
    """A word-level tokenizer: one token per word between spaces, ids in the order given after two special ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([unknown, padding, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown, pad_token=padding)


def tiny_model(
    family: str,
    vocabulary: int,
    *,
    width: int = 32,
    layers: int = 4,
    heads: int = 4,
    inner: int | None = None,
    positions: int = 128,
    scale: float = 4.0,
    seed: int = 0,
) -> Any:
    """A random model of family ``gpt2``, ``gptj`` or ``llama``, frozen, in eval mode, float32.

    Args:
        scale: factor on the weight matrices after initialisation; with the usual small ones every output is nearly
            uniform and nothing a test compares would differ.

    Raises:
        ValueError: for an unknown family.
    """
    from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, LlamaConfig

    inner = inner or 3 * width
    none: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    config: Any
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=vocabulary,
            n_positions=positions,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_inner=inner,
            **none,
        )
    elif family == "gptj":
        config = GPTJConfig(
            vocab_size=vocabulary, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads, n_inner=inner,
            rotary_dim=width // heads // 2, tie_word_embeddings=False, **none,
        )  # fmt: skip
    elif family == "llama":
        config = LlamaConfig(
            vocab_size=vocabulary, max_position_embeddings=positions, hidden_size=width, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads // 2, intermediate_size=inner, **none,
        )  # fmt: skip
    else:
        raise ValueError(f"family={family} is unknown; choose {', '.join(FAMILIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            if parameter.dim() > 1:
                parameter.mul_(scale)
            else:  # biases and norms start at constants, which would hide errors in them
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()
