"""One forward pass in any transformers 5 release: cache keyword, device, positions, logits only where needed."""

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from decathlon.language.masks import Masks, for_model

_FEW = 8
_CACHE_NAMES = ("cache", "past_key_values", "layer_past")


@lru_cache(maxsize=64)
def _cache_keyword(forward: Any) -> str:
    parameters = inspect.signature(forward).parameters
    return next((name for name in _CACHE_NAMES if name in parameters), "past_key_values")


def cache_keyword(module: torch.nn.Module) -> str:
    """How this model or block calls its key/value cache: it depends on the family and on transformers' release."""
    return _cache_keyword(type(module).forward)


def device_of(model: torch.nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    return next(model.parameters()).device


def hidden_states(
    model: Any, ids: Tensor, mask: Tensor | Masks, positions: Tensor, cache: Any = None
) -> tuple[Tensor, Any]:
    """Last hidden states (rows, columns, width), after the final norm, and the cache.

    Args:
        ids: (rows, columns) token ids.
        mask: 2-D padding mask over cached and new columns (padded on the right), or additive ones of ``masks_of``.
        positions: (rows, columns).
        cache: a transformers cache that is extended, or None.
    """
    options = {cache_keyword(model.base_model): cache} if cache is not None else {}
    shown = mask if isinstance(mask, Tensor) else for_model(mask)
    out = model.base_model(
        input_ids=ids, attention_mask=shown, position_ids=positions, use_cache=cache is not None, **options
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
