"""The layers of a tanh network, where they provably are all that calling the network computes.

The fast pass of :mod:`decathlon.equations.taylor` reads weights instead of calling the network. That is right only
while nothing else takes part in the call: torch lets a subclass, an instance, a hook, a parametrization, an adapter, a
compiler, a tensor subclass or a global mode change what a layer does. Whatever is not exactly known here is not fast.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from decathlon.equations.nested import in_transform
from decathlon.equations.networks import MLP

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SHADOWS = {"forward", "_call_impl", "_wrapped_call_impl", "_slow_forward"}


def _code() -> tuple[Any, ...]:
    """The functions that take part when a tanh network is called; libraries have been seen to replace some."""
    return (
        nn.Module.__call__, nn.Module._call_impl, nn.Module.__getattr__, nn.Linear.forward, nn.Tanh.forward,
        nn.Sequential.forward, nn.Sequential.__iter__, nn.ModuleList.__iter__, MLP.forward, functional.linear,
        torch.tanh,
    )  # fmt: skip


_ORIGINAL = _code()


def tanh_layers(network: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor | None]] | None:
    """Weights and biases of a tanh network, if ``network(x)`` is ``W_n tanh(... tanh(W_1 x + b_1) ...) + b_n``.

    Args:
        network: an ``MLP`` or a ``Sequential`` of ``Linear`` and ``Tanh`` in turn can be one.
        x: (points, inputs).

    Returns:
        The weights, (out, in) each, an ``MLP``'s ``input_scale`` multiplied into the first; and the biases, (out,)
        each, the last one maybe None. None if anything may stand between the layers and the result.
    """
    found = _layers(network)
    if found is None or _code() != _ORIGINAL or _intercepted():
        return None
    layers, scale = found
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor | None] = [layer.bias for layer in layers]
    if len(layers) < 2 or any(bias is None for bias in biases[:-1]):
        return None
    tensors = [x, *weights, *(bias for bias in biases if bias is not None), *([] if scale is None else [scale])]
    if not all(_ordinary(tensor, x) for tensor in tensors) or not _chained(x, weights, biases):
        return None
    if scale is not None:
        if tuple(scale.shape) not in {(), (x.shape[1],)}:
            return None
        weights[0] = weights[0] * scale
    return weights, biases


def _layers(network: nn.Module) -> tuple[list[nn.Linear], Tensor | None] | None:
    """The linear layers between which tanh stands, and the factor of the inputs."""
    if type(network) is MLP:
        inner, scale = network.hidden, network.input_scale
        if type(inner) is not nn.ModuleList or not _untouched(network):
            return None
        linear, others = [*inner, network.head], []
    elif type(network) is nn.Sequential:
        members, scale = list(network), None
        if len(members) % 2 == 0 or not _untouched(network):
            return None
        linear, others = members[::2], members[1::2]
    else:
        return None
    plain = all(type(layer) is nn.Linear for layer in linear) and all(type(layer) is nn.Tanh for layer in others)
    return (linear, scale) if plain and all(_untouched(layer) for layer in (*linear, *others)) else None


def _untouched(module: nn.Module) -> bool:
    """Whether calling ``module`` runs the forward of its class and nothing before, after or around it."""
    state = vars(module)
    hooked = any(state[name] for name in _HOOKS)
    return not hooked and not _SHADOWS & state.keys() and module._compiled_call_impl is None


def _intercepted() -> bool:
    """Whether something global sees or changes what modules or functions compute."""
    return (
        any(getattr(torch_module, f"_global{name}") for name in _HOOKS)
        or any(not isinstance(mode, DeviceContext) for mode in torch.overrides._get_current_function_mode_stack())
        or bool(_get_current_dispatch_mode_stack())
        or in_transform()
        or torch.autograd.forward_ad._current_level >= 0
        or bool(torch._C._get_tracing_state())
    )


def _ordinary(tensor: Any, like: Tensor) -> bool:
    """Whether it is a plain dense tensor, of single or double precision, of the kind of ``like``."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.dtype in (torch.float32, torch.float64)
        and (tensor.dtype, tensor.device) == (like.dtype, like.device)
    )


def _chained(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> bool:
    width = x.shape[1]
    for weight, bias in zip(weights, biases):
        if weight.ndim != 2 or weight.shape[1] != width or (bias is not None and bias.shape != weight.shape[:1]):
            return False
        width = weight.shape[0]
    return True
