"""A decoder in two parts: hidden states that enter a block, and the rest of the decoder from there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from decathlon.language.decoder import check_layer, decoder_of
from decathlon.language.forward import device_of
from decathlon.language.taps import first_tensor, run, tap


def block_input(model: Any, layer: int, ids: Tensor) -> Tensor:
    """The hidden states that enter block ``layer``, (rows, columns, width). The blocks from there on are not run.

    Args:
        ids: (rows, columns), padded on the right: attention is causal, so padding changes no token before it.

    Raises:
        ValueError: for an unsupported model, or a layer that it does not have.
    """
    decoder = decoder_of(model)
    block = decoder.module("block", check_layer(model, layer))
    seen: list[Tensor] = []

    def keep(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    if layer:
        name = decoder.name("block", layer - 1)
        with tap(model, [name], stop=True) as taps:
            run(model.base_model, input_ids=ids, use_cache=False)
        return first_tensor(taps.outputs[name])
    handle = block.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with tap(model, [decoder.name("block", 0)], stop=True):
            run(model.base_model, input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


@contextmanager
def from_block(model: Any, layer: int, hidden: Tensor) -> Iterator[None]:
    """The model begins at block ``layer`` with given hidden states while the context is open.

    Call it with the token ids that the states belong to: positions and masks come from there, the blocks below are
    passed over. What comes out is what the whole model computes, bit for bit if ``hidden`` is ``block_input``'s.

    Args:
        hidden: what enters the block, (rows, columns, width), in any floating dtype.

    Raises:
        ValueError: for an unsupported model, or a layer that it does not have.
    """
    decoder = decoder_of(model)
    check_layer(model, layer)
    below = [decoder.module("block", lower) for lower in range(layer)]
    given = hidden.to(device_of(model), model.dtype)

    def skip(states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return states

    def replace(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (given, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": given}

    handle = decoder.module("block", layer).register_forward_pre_hook(replace, with_kwargs=True)
    try:
        for block in below:
            block.forward = skip
        yield
    finally:
        handle.remove()
        for block in below:
            block.__dict__.pop("forward", None)
