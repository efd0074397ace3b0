"""Read what flows through named modules in a forward pass, and the gradients that come back."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor


class _Reached(Exception):
    """The last tapped module has run; the rest of the forward pass is not needed."""


def first_tensor(value: Any) -> Tensor:
    """The tensor itself, or the first one of a tuple: blocks return either, depending on the transformers release."""
    return value[0] if isinstance(value, (tuple, list)) else value


class Taps:
    """What was seen, by module name.

    inputs, outputs: activations of the latest forward pass. gradients: of the latest backward pass, with respect to
    the outputs.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}


@contextmanager
def tap(
    model: torch.nn.Module,
    names: Sequence[str],
    *,
    keep: Sequence[Literal["input", "output", "gradient"]] = ("output",),
    stop: bool = False,
) -> Iterator[Taps]:
    """Record activations (and gradients) of the modules ``names`` while the context is open.

    Args:
        names: module names as ``model.get_submodule`` takes them.
        keep: which of ``input``, ``output``, ``gradient`` to record.
        stop: end the forward pass as soon as every named module has run. Then call the model through ``run``.

    Raises:
        ValueError: for a name the model does not have.
    """
    taps = Taps()
    waiting: set[str] = set()
    handles = []

    def hook(name: str) -> Any:
        def run_hook(_: torch.nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            tensor = first_tensor(output)
            if "input" in keep:
                taps.inputs[name] = args[0] if args else next(iter(kwargs.values()))
            if "output" in keep:
                taps.outputs[name] = tensor
            if "gradient" in keep and tensor.requires_grad:
                tensor.register_hook(lambda gradient: taps.gradients.__setitem__(name, gradient.detach()))
            if stop:
                waiting.discard(name)
                if not waiting:
                    waiting.update(names)
                    raise _Reached

        return run_hook

    try:
        for name in names:
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise ValueError(f"this model has no module {name!r}") from error
            handles.append(module.register_forward_hook(hook(name), with_kwargs=True))
        waiting.update(names)
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def run(module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a model, or a function that calls it, inside ``tap(..., stop=True)``: None if the pass was ended early."""
    try:
        return module(*args, **kwargs)
    except _Reached:
        return None
