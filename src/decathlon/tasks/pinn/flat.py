"""Gradients of several losses as the rows of one flat matrix, written and averaged without copies of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

Loss = Tensor | Callable[[], Tensor]
Losses = Mapping[str, Loss] | Sequence[Loss]


def listed(losses: Losses | Tensor) -> list[Loss]:
    """The losses of a dict, a sequence or a vector, in order.

    Raises:
        ValueError: none given.
    """
    if isinstance(losses, Tensor):
        losses = list(losses.reshape(-1))
    items = list(losses.values()) if isinstance(losses, Mapping) else list(losses)
    if not items:
        raise ValueError("no losses given")
    return items


def evaluate(loss: Loss) -> Tensor:
    """The scalar loss; a closure is called.

    Raises:
        ValueError: it is not a scalar tensor.
    """
    value = loss() if callable(loss) else loss
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"a loss must be a scalar tensor or a function that returns one, got {value!r}")
    return value.reshape(())


class Flat:
    """A fixed order of parameters, and the layout of their flat gradient.

    Args:
        parameters: those that require a gradient are kept, in order, each once.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = [p for p in dict.fromkeys(parameters) if p.requires_grad]
        if not self.parameters:
            raise ValueError("no parameters that require a gradient")
        self.sizes = [p.numel() for p in self.parameters]
        self.size = sum(self.sizes)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of shape (*shape, N), like the parameters."""
        first = self.parameters[0]
        return torch.zeros(*shape, self.size, dtype=self.dtype, device=first.device)

    @property
    def dtype(self) -> torch.dtype:
        dtype = self.parameters[0].dtype
        for parameter in self.parameters[1:]:
            dtype = torch.promote_types(dtype, parameter.dtype)
        return dtype

    def views(self, flat: Tensor) -> list[Tensor]:
        """``flat`` (N,) as views with the shapes of the parameters."""
        return [part.view_as(p) for part, p in zip(flat.split(self.sizes), self.parameters)]

    def write(self, gradients: Sequence[Tensor | None], row: Tensor) -> None:
        """Put the gradients into ``row`` (N,); ``None`` becomes zeros."""
        parts = [
            torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1) for g, p in zip(gradients, self.parameters)
        ]
        torch.cat(parts, out=row) if parts[0].dtype == row.dtype else row.copy_(torch.cat(parts))

    def gradient(self, loss: Tensor, row: Tensor, retain_graph: bool = False) -> None:
        """Put the gradient of ``loss`` into ``row``; zeros where the loss does not depend on a parameter."""
        if not loss.requires_grad:
            row.zero_()
            return
        found = torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph, allow_unused=True)
        self.write(found, row)

    def assign(self, flat: Tensor) -> None:
        """Let every parameter's ``.grad`` be its part of ``flat`` (N,)."""
        for parameter, view in zip(self.parameters, self.views(flat)):
            parameter.grad = view.to(parameter.dtype)

    def copy(self) -> Tensor:
        """The parameters themselves as a new flat vector."""
        return torch.cat([p.detach().reshape(-1).to(self.dtype) for p in self.parameters])


def distributed(group: dist.ProcessGroup | None = None) -> bool:
    """Whether there is more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def average(values: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Average a tensor over the processes in place; nothing to do for one."""
    if distributed(group):
        dist.all_reduce(values, group=group)
        values /= dist.get_world_size(group)
