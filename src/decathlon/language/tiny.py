"""Small random models of each family and a word-level tokenizer: for tests and smoke runs, without any download."""

from collections.abc import Sequence
from typing import Any

import torch

from decathlon.language.decoder import FAMILIES


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
    window: int | None = None,
    scale: float = 4.0,
    seed: int = 0,
) -> Any:
    """A random model of one of ``decoder.FAMILIES``, frozen, in eval mode, float32. To train one: ``factory``.

    Args:
        window: how far back attention sees, for Mistral, Phi-3 (all layers) and Qwen (the upper half); None: all.
        scale: factor on the weight matrices after initialisation; with the usual small ones every output is nearly
            uniform and nothing a test compares would differ.

    Raises:
        ValueError: for an unknown family, or a window where a family has none.
    """
    from transformers import AutoModelForCausalLM

    if family not in FAMILIES:
        raise ValueError(f"family={family} is unknown; choose {', '.join(FAMILIES)}")
    if window is not None and family not in ("mistral", "phi3", "qwen2", "qwen3"):
        raise ValueError(f"family={family} has no sliding window")
    config = _config(family, vocabulary, width, layers, heads, inner or 3 * width, positions, window)
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


def _config(
    family: str, vocabulary: int, width: int, layers: int, heads: int, inner: int, positions: int, window: int | None
) -> Any:
    from transformers import AutoConfig

    options: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
    if family in ("gpt2", "gptj"):
        options |= {"n_positions": positions, "n_embd": width, "n_layer": layers, "n_head": heads, "n_inner": inner}
        if family == "gptj":
            options |= {"rotary_dim": width // heads // 2, "tie_word_embeddings": False}
        return AutoConfig.for_model(family, **options)
    options |= {
        "max_position_embeddings": positions, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": inner,
    }  # fmt: skip
    if family != "gpt_neox":
        options["num_key_value_heads"] = heads // 2
    if family in ("qwen3", "mistral"):
        options["head_dim"] = width // heads
    if family in ("mistral", "phi3"):
        options["sliding_window"] = window
    if family == "phi3":
        options["pad_token_id"] = None
    if window is not None and family in ("qwen2", "qwen3"):
        options |= {"use_sliding_window": True, "sliding_window": window, "max_window_layers": layers // 2}
    return AutoConfig.for_model(family, **options)
