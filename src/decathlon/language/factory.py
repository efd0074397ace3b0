"""New causal language models to be trained: random weights, nothing frozen."""

from typing import Any

import torch

from decathlon.randomness import seeded


def new_llama(
    vocabulary: int,
    *,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    inner: int | None = None,
    kv_heads: int | None = None,
    positions: int = 1024,
    tied: bool = False,
    eps: float = 1e-6,
    std: float = 0.02,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A LLaMA in training mode: RMSNorm, rotary embeddings, SwiGLU, no biases, no dropout.

    Args:
        vocabulary, width, layers, heads, kv_heads: its shape; as many key/value heads as heads if not given.
        inner: width inside the MLP; None: 8/3 of the width, rounded up to a multiple of 8.
        positions: the longest sequence that it is meant for.
        tied: whether the output embeddings are the input embeddings.
        eps: of the norms. std: of the initial weights, which are normal with mean 0; norms start at 1.
        seed: of the initial weights, which depend on nothing else that was drawn before.

    Raises:
        ValueError: one line, for sizes that do not go together.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    kv_heads = heads if kv_heads is None else kv_heads
    inner = -(-8 * width // 24) * 8 if inner is None else inner
    sizes = {"vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads}
    for name, size in {**sizes, "inner": inner, "positions": positions}.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    if width % heads or width // heads % 2:
        raise ValueError(f"width={width} must be an even multiple of heads={heads}: rotations turn pairs")
    if heads % kv_heads:
        raise ValueError(f"heads={heads} is no multiple of kv_heads={kv_heads}")
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        rms_norm_eps=eps,
        initializer_range=std,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        use_cache=False,
    )
    with seeded("model", seed):
        model: Any = LlamaForCausalLM(config)
    return model.to(dtype).train()
