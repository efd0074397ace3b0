"""Derivatives of any smooth function of the points, by automatic differentiation: slow, and right for every network."""

from collections.abc import Callable

import torch
from torch import Tensor

# A derivative is a sorted tuple of axes; a request is a weighted sum of derivatives, and has a name.
Terms = tuple[tuple[tuple[int, ...], float], ...]
Requests = tuple[tuple[str, Terms], ...]
Function = Callable[[Tensor], Tensor]


def exact_derivatives(function: Function, x: Tensor, requests: Requests) -> tuple[Tensor, dict[str, Tensor]]:
    """Values and requested derivatives of ``function``, differentiable any number of times.

    Inside a transform of ``torch.func`` they are nested forward derivatives, as ``torch.autograd.grad`` is not allowed
    there; else nested reverse ones, of which all share their parts.

    Args:
        function: maps (points, coordinates) to (points, fields), each point by itself.
        x: (points, coordinates).
        requests: what to compute.

    Returns:
        The values (fields, points), and by name the requests, (fields, points) each.

    Raises:
        ValueError: the function returns another shape, or what it returns was computed without gradients.
    """
    if in_transform():
        return _forward_mode(function, x, requests)
    recorded = torch.is_grad_enabled()
    # Lightning tests in inference mode, whose tensors cannot be differentiated.
    with torch.inference_mode(False), torch.enable_grad():
        value, named = _reverse_mode(function, x if x.requires_grad else x.clone().requires_grad_(), requests)
    if recorded:
        return value, named
    return value.detach(), {name: found.detach() for name, found in named.items()}


def in_transform() -> bool:
    """Whether the call happens inside ``torch.func.grad``, ``vmap``, ``jvp`` or the like."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _fields(function: Function, x: Tensor) -> Tensor:
    values = function(x)
    if values.ndim != 2 or len(values) != len(x):
        raise ValueError(
            f"the network must map (points, coordinates) to (points, fields); it maps {tuple(x.shape)} to "
            f"{tuple(values.shape)}"
        )
    return values.t()


def _reverse_mode(function: Function, x: Tensor, requests: Requests) -> tuple[Tensor, dict[str, Tensor]]:
    value = _fields(function, x)
    if requests and not value.requires_grad:  # zeros would be a wrong equation without a word
        raise ValueError("the network's output has no gradient by the points: it is constant, or was detached")
    known: dict[tuple[int, tuple[int, ...]], Tensor] = {(f, ()): field for f, field in enumerate(value)}

    def derivative(f: int, axes: tuple[int, ...]) -> Tensor:
        if (f, axes) not in known:
            inner = derivative(f, axes[:-1])
            if inner.requires_grad:
                (slopes,) = torch.autograd.grad(
                    inner.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
                )
            else:
                slopes = torch.zeros_like(x)
            for axis in range(x.shape[1]):
                known.setdefault((f, tuple(sorted((*axes[:-1], axis)))), slopes[:, axis])
        return known[f, axes]

    def combined(f: int, terms: Terms) -> Tensor:
        return sum((w * derivative(f, axes) for axes, w in terms[1:]), terms[0][1] * derivative(f, terms[0][0]))

    return value, {name: torch.stack([combined(f, terms) for f in range(len(value))]) for name, terms in requests}


def _forward_mode(function: Function, x: Tensor, requests: Requests) -> tuple[Tensor, dict[str, Tensor]]:
    def along(inner: Function, axis: int) -> Function:
        direction = torch.zeros_like(x)
        direction[:, axis] = 1
        return lambda points: torch.func.jvp(inner, (points,), (direction,))[1]

    functions: dict[tuple[int, ...], Function] = {(): lambda points: _fields(function, points)}

    def derivative(axes: tuple[int, ...]) -> Function:
        if axes not in functions:
            functions[axes] = along(derivative(axes[:-1]), axes[-1])
        return functions[axes]

    named = {}
    for name, terms in requests:
        parts = [weight * derivative(axes)(x) for axes, weight in terms]
        named[name] = sum(parts[1:], parts[0])
    return functions[()](x), named
