"""Go on with a forward pass in the middle: run the upper blocks on given hidden states.

Whatever is changed at one layer and position leaves every lower layer and every earlier position as it was. Their
activations can be computed once; each new variant then costs the later positions in the upper layers only.
"""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, cat

from decathlon.language.decoder import decoder_of
from decathlon.language.forward import cache_keyword
from decathlon.language.masks import Masks, windows
from decathlon.language.taps import first_tensor


class Past:
    """Keys and values of earlier positions, constant: a block sees them before its own, and nothing is stored.

    It stands in for a transformers cache inside a block, which calls ``update`` and nothing else.
    """

    def __init__(self, layers: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        self.layers = dict(layers)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, heads, earlier + new positions, head size)."""
        keys, values = self.layers[layer_idx]
        return cat([keys, key_states], dim=2), cat([values, value_states], dim=2)

    def select(self, rows: Tensor) -> "Past":
        """The same for some of the rows."""
        return Past({layer: (keys[rows], values[rows]) for layer, (keys, values) in self.layers.items()})


@lru_cache(maxsize=64)
def _keywords(forward: Any) -> tuple[set[str], bool]:
    parameters = inspect.signature(forward).parameters
    return set(parameters), any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def upper_blocks(
    model: Any, first: int, hidden: Tensor, positions: Tensor, masks: Masks, past: Past | None = None
) -> Tensor:
    """Hidden states after blocks ``first`` to the last and the final norm.

    Args:
        first: the first block to run (the number of layers: only the final norm is applied).
        hidden: (rows, columns, width), the input of that block.
        positions: (rows, columns).
        masks: of ``masks.masks_of``: additive, (rows, 1, columns, earlier + columns) each.
        past: keys and values of the earlier positions of each block, or None if the columns are all there is.

    Raises:
        ValueError: if the model's attention implementation takes no additive mask.
    """
    if model.config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"attn_implementation={model.config._attn_implementation} takes no custom mask; load with sdpa or eager"
        )
    decoder, window = decoder_of(model), windows(model)
    options: dict[str, Any] = {"position_ids": positions, "use_cache": past is not None}
    if hasattr(model.base_model, "rotary_emb"):
        options["position_embeddings"] = model.base_model.rotary_emb(hidden, position_ids=positions)
    for layer in range(first, decoder.layers):
        block = decoder.module("block", layer)
        names, free = _keywords(type(block).forward)
        options["attention_mask"] = masks[window[layer]]
        given = {name: value for name, value in options.items() if free or name in names}
        if past is not None:
            given[cache_keyword(block)] = past
        hidden = first_tensor(block(hidden, **given))
    return decoder.module("norm")(hidden)
