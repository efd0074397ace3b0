"""The paper's LLaMA models by size."""

from typing import Any

import torch

from decathlon.language import new_llama

# width, inner, layers, heads. From 9m on with a vocabulary of 32,000 in the paper.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (32, 88, 2, 2),
    "small": (128, 344, 4, 4),
    "9m": (128, 352, 4, 4),
    "20m": (256, 688, 4, 4),
    "60m": (512, 1376, 8, 8),
    "130m": (768, 2048, 12, 12),
    "350m": (1024, 2736, 24, 16),
    "1b": (2048, 5461, 24, 32),
    "7b": (4096, 11008, 32, 32),
}
PAPERS_VOCABULARY = 32_000


def check_size(size: str) -> str:
    """The size, if there is one of that name. Raises ValueError, in one line."""
    if size not in SIZES:
        raise ValueError(f"size={size} is unknown; choose {', '.join(SIZES)}")
    return size


def make_model(size: str, vocabulary: int = PAPERS_VOCABULARY, seed: int = 0, positions: int = 1024) -> Any:
    """A LLaMA with new weights: RMSNorm (eps 1e-6), rotary embeddings, SwiGLU, no biases, untied head, N(0, 0.02).

    Raises:
        ValueError: one line, for an unknown size.
    """
    width, inner, layers, heads = SIZES[check_size(size)]
    return new_llama(
        vocabulary, width=width, inner=inner, layers=layers, heads=heads, positions=max(positions, 1024), seed=seed
    )


def meta_model(size: str, dtype: torch.dtype, vocabulary: int = PAPERS_VOCABULARY) -> Any:
    """The same without any data: shapes only, for counting."""
    with torch.device("meta"):
        return make_model(size, vocabulary).to(dtype)
