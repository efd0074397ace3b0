"""A small frozen decoder, a CoRA on it that has been nudged off its start, and pairs."""

from typing import Any

import torch

from decathlon.language.tiny import tiny_model
from decathlon.tasks.cora import CoRA

USER, ITEM, VOCABULARY = 8, 8, 512


def llama(family: str = "llama", **options: Any) -> Any:
    """Two blocks, width 64, four heads, two of keys and values."""
    return tiny_model(family, VOCABULARY, **{"width": 64, "layers": 2, "scale": 2.0, **options})


def cora(llm: Any, rank: int = 4, seed: int = 0, trained: bool = True, **options: Any) -> CoRA:
    """CoRA in eval mode; ``trained``: its P are not zero."""
    if options.get("generator", "qformer") == "qformer":
        options = {"queries": 4, "layers": 2, "heads": 4, "inner": 32, **options}
    torch.manual_seed(seed)
    made = CoRA(llm, USER, ITEM, rank=rank, **options).eval()
    if trained:
        with torch.no_grad():
            for parameter in made.outputs.values():
                parameter.normal_(std=2.0)
    return made


def pairs(rows: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """User and item vectors."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, USER, generator=generator), torch.randn(rows, ITEM, generator=generator)


def prompts(rows: int, length: int = 9, seed: int = 2) -> torch.Tensor:
    """Token ids."""
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
