"""Low-rank changes of linear maps that differ from row to row of a batch, without any changed matrix.

A map ``y = x W^T`` becomes ``y = x W^T + scale * x A_b B_b`` for row b of the batch. Nothing of the size of W is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decathlon.language.decoder import Kind, Projection, decoder_of, matrix


@dataclass(frozen=True)
class Increment:
    """The factors of one map's change, with gradients if they have them.

    attributes:
        first: A, (rows, inputs, rank), or (inputs, rank) for all rows alike.
        second: B, (rows, rank, outputs), or (rank, outputs) for all rows alike.
        scale: a factor. dropout: share of the inputs that the increment does not see, in the model's training mode.
    """

    first: Tensor
    second: Tensor
    scale: float = 1.0
    dropout: float = 0.0

    def reduced(self, x: Tensor, training: bool) -> Tensor:
        """``x A_b``, (rows, columns, rank), in at least float32."""
        wide = torch.promote_types(x.dtype, torch.float32)
        seen = torch.nn.functional.dropout(x.to(wide), self.dropout, training and self.dropout > 0)
        return seen @ self.first.to(x.device, wide)

    def expanded(self, reduced: Tensor) -> Tensor:
        """``scale * x A_b B_b``, (rows, columns, outputs), from ``x A_b``."""
        change = reduced @ self.second.to(reduced.device, reduced.dtype)
        return change if self.scale == 1 else self.scale * change


class _Latest:
    """The latest ``x A``: maps that read one input through one A (q, k and v; gate and up) have it computed once.

    With dropout they then see one mask, as the maps of a fused module do.
    """

    def __init__(self) -> None:
        self.key: tuple[Any, ...] = ()
        self.reduced: Tensor | None = None

    def __call__(self, increment: Increment, x: Tensor, training: bool) -> Tensor:
        version = None if x.is_inference() else x._version  # changed in place it is another input
        settings = (version, increment.dropout, training, torch.is_grad_enabled())
        if (
            self.reduced is None
            or self.key[0] is not x
            or self.key[1] is not increment.first
            or self.key[2] != settings
        ):
            self.key, self.reduced = (x, increment.first, settings), increment.reduced(x, training)
        return self.reduced


class Switch:
    """Turns the increments of an open context on and off; off, the model's outputs are its own, bit for bit."""

    def __init__(self) -> None:
        self.on = True


@contextmanager
def incremented(model: Any, changes: Mapping[tuple[Kind, int], Increment]) -> Iterator[Switch]:
    """The model with increments of its linear maps while the context is open.

    Args:
        changes: by (kind, layer) as ``decoder.Decoder`` has them, for example ``("q", 3)``. Maps that share a fused
            module may each have one.

    Raises:
        ValueError: one line, for a map that the model does not have, or factors that do not fit it.
    """
    decoder = decoder_of(model)
    grouped: dict[str, list[tuple[Projection, Increment]]] = {}
    for (kind, layer), increment in changes.items():
        place = decoder.projection(kind, layer)
        _check(f"{kind} of layer {layer}", place.inputs, place.outputs, increment)
        grouped.setdefault(place.name, []).append((place, increment))
    with _hooked(model, grouped) as switch:
        yield switch


@contextmanager
def incremented_modules(model: Any, changes: Mapping[str, Increment]) -> Iterator[Switch]:
    """``incremented`` for whole linear modules by their names."""
    grouped = {}
    for name, increment in changes.items():
        outputs, inputs = matrix(model.get_submodule(name)).shape
        _check(name, inputs, outputs, increment)
        grouped[name] = [(Projection(name, inputs, outputs, None), increment)]
    with _hooked(model, grouped) as switch:
        yield switch


def _check(what: str, inputs: int, outputs: int, increment: Increment) -> None:
    a, b = increment.first.shape, increment.second.shape
    if a[-2] != inputs or b[-1] != outputs or a[-1] != b[-2]:
        raise ValueError(f"factors {tuple(a)} and {tuple(b)} do not fit {what}, which maps {inputs} to {outputs}")


@contextmanager
def _hooked(model: Any, grouped: Mapping[str, Sequence[tuple[Projection, Increment]]]) -> Iterator[Switch]:
    switch, latest = Switch(), _Latest()
    handles = []
    try:
        for name, parts in grouped.items():
            handles.append(model.get_submodule(name).register_forward_hook(_adder(parts, switch, latest)))
        yield switch
    finally:
        for handle in handles:
            handle.remove()


def _adder(parts: Sequence[tuple[Projection, Increment]], switch: Switch, latest: _Latest) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not switch.on:
            return None
        x = args[0]
        wide = output.to(torch.promote_types(output.dtype, torch.float32))
        for place, increment in parts:
            for factor in (increment.first, increment.second):
                if factor.dim() == 3 and len(factor) != len(x):
                    raise ValueError(f"increments of {len(factor)} rows for a batch of {len(x)}")
            wide = place.added(wide, increment.expanded(latest(increment, x, module.training)))
        return wide.to(output.dtype)

    return hook
