"""Who may attend to whom, as additive masks: also in layers that see no further back than a sliding window."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Masks = Mapping[int | None, Tensor]
"""By window (None: unlimited) the additive mask of the layers that have it, (rows, 1, queries, keys)."""


def windows(model: Any) -> list[int | None]:
    """How far back each layer sees, itself included; None: all the way.

    Raises:
        ValueError: for a kind of attention that is neither full nor a sliding window.
    """
    config = model.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return [window] * int(config.num_hidden_layers)
    strange = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if strange:
        raise ValueError(f"layers with {strange[0]} are not supported; choose a model with full or sliding attention")
    return [window if kind == "sliding_attention" else None for kind in kinds]


def floating_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive mask (rows, 1, queries, keys): 0 where ``allowed`` (rows, queries, keys), else the least float."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def masks_of(model: Any, allowed: Tensor, queries: Tensor, keys: Tensor) -> Masks:
    """The masks of a model's layers.

    Args:
        allowed: who may attend to whom if nothing but the text decides, boolean, (rows, queries, keys).
        queries, keys: positions in the text, (rows, queries) and (rows, keys).
    """
    made: dict[int | None, Tensor] = {}
    for window in windows(model):
        if window not in made:
            seen = allowed
            if window is not None:
                seen = allowed & (queries[:, :, None] - keys[:, None, :] < window)
            made[window] = floating_mask(seen, model.dtype)
    return made


def for_model(masks: Masks) -> Tensor | dict[str, Tensor]:
    """The masks as transformers' models take them: one tensor, or one for each kind of layer."""
    if len(masks) == 1:
        return next(iter(masks.values()))
    (window,) = (window for window in masks if window is not None)
    return {"full_attention": masks[None], "sliding_attention": masks[window]}
