"""One forward pass in any transformers 5 release: cache keyword, device, positions, logits only where needed."""

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_FEW = 8
# Families whose logits are exactly output_embeddings(last_hidden_state): no soft-capping, no scaling.
_PLAIN_HEAD = {"gpt2", "gptj", "llama", "mistral", "qwen2"}  # the same as layouts.LAYOUTS


@lru_cache(maxsize=64)
def _cache_keyword(forward: Any) -> str:
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def cache_keyword(module: torch.nn.Module) -> str:
    """How this model or block calls its key/value cache: ``cache`` (recent transformers) or ``past_key_values``."""
    return _cache_keyword(type(module).forward)


def device_of(model: torch.nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    return next(model.parameters()).device


def floating_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive mask (rows, 1, queries, keys): 0 where ``allowed`` (rows, queries, keys), else the least float."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def hidden_states(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
    """Last hidden states (rows, columns, width), after the final norm, and the cache.

    Args:
        ids: (rows, columns) token ids.
        mask: 2-D padding mask over cached and new columns, or an additive 4-D one.
        positions: (rows, columns).
        cache: a transformers cache that is extended, or None.
    """
    options = {cache_keyword(model.base_model): cache} if cache is not None else {}
    out = model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=cache is not None, **options
    )
    return out.last_hidden_state, cache


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits of hidden states that have passed the final norm, (..., vocabulary)."""
    module = model.get_output_embeddings()
    few = hidden.dim() == 2 and 1 < len(hidden) <= _FEW and hidden.dtype == torch.float32
    if few and hidden.device.type == "cpu" and not hidden.requires_grad:
        # On a CPU a handful of rows times a vocabulary is two to four times faster with the long side first.
        logits = (module.weight @ hidden.T).T
        return logits if module.bias is None else logits + module.bias
    return module(hidden)


def has_plain_head(model: Any) -> bool:
    """Whether ``head`` gives this model's logits exactly."""
    return model.config.model_type in _PLAIN_HEAD


def check_plain_head(model: Any) -> None:
    """Raise a one-line ValueError for a family that this package has not been taught."""
    if not has_plain_head(model):
        raise ValueError(
            f"model type {model.config.model_type!r} is not supported; choose one of {', '.join(sorted(_PLAIN_HEAD))}"
        )
