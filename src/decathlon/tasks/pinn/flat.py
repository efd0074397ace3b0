"""Parameters and their gradients as one flat vector of real numbers, written without copies of it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from decathlon.tasks.pinn.operators.gram import as_real


class Flat:
    """A fixed order of parameters, and the layout of their flat gradient.

    A complex parameter takes two places for each number, real and imaginary part, as in torch's optimizers.

    Args:
        parameters: each is taken once, in order; those that do not require a gradient have no place.
        optional: there may be none that requires one.

    Raises:
        ValueError: there is none that requires a gradient; they are on several devices, sparse, or no tensors.
    """

    def __init__(self, parameters: Iterable[Tensor], optional: bool = False) -> None:
        if isinstance(parameters, Tensor):
            raise ValueError("parameters must be a list of tensors, got one tensor")
        if not isinstance(parameters, Iterable):
            raise ValueError(f"parameters must be a list of tensors, got {type(parameters).__name__}")
        self.given = list(dict.fromkeys(parameters))
        for parameter in self.given:
            if not isinstance(parameter, Tensor):
                raise ValueError(f"parameters must be tensors, got {type(parameter).__name__}")
            if parameter.layout != torch.strided:
                raise ValueError("a parameter is a sparse tensor; only dense ones have a flat gradient")
        self.optional = optional
        self.parameters: list[Tensor] = []
        self._required: list[bool] = []
        self.shapes: list[torch.Size] = []
        self.sizes: list[int] = []
        self.size = 0
        self.follow()

    @property
    def changed(self) -> bool:
        """Whether parameters were frozen or unfrozen since the layout was made."""
        return self._required != [p.requires_grad for p in self.given]

    def follow(self) -> None:
        """Make the layout anew if parameters were frozen or unfrozen; a frozen one loses its ``.grad``.

        Otherwise an optimizer would go on with the last gradient that it had.
        """
        if self.parameters and not self.changed:
            return
        for parameter in self.parameters:
            if not parameter.requires_grad:
                parameter.grad = None
        required = [p for p in self.given if p.requires_grad]
        if sum(p.numel() for p in required) == 0 and not self.optional:
            raise ValueError("no parameters that require a gradient")
        devices = {str(p.device) for p in required}
        if len(devices) > 1:
            raise ValueError(f"the parameters are on {' and '.join(sorted(devices))}; all must be on one device")
        self.parameters = required
        self._required = [p.requires_grad for p in self.given]
        self.shapes = [as_real(p.detach()).shape for p in required]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.size = sum(self.sizes)

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros of shape (*shape, N), like the parameters."""
        return torch.zeros(*shape, self.size, dtype=dtype or self.dtype, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.parameters[0].device if self.parameters else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The real type that holds all the parameters."""
        dtype = self.parameters[0].dtype if self.parameters else torch.float32
        for parameter in self.parameters[1:]:
            dtype = torch.promote_types(dtype, parameter.dtype)
        return dtype.to_real()

    @property
    def state_dtype(self) -> torch.dtype:
        """The type of what is kept from step to step: float32 for half precision, whose sums would stand still."""
        return torch.promote_types(self.dtype, torch.float32)

    def views(self, flat: Tensor) -> list[Tensor]:
        """``flat`` (N,) as views with the shapes of the parameters; (..., 2) for complex ones."""
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes)]

    def write(self, gradients: Sequence[Tensor | None], row: Tensor) -> None:
        """Put the gradients, dense or sparse, into ``row`` (N,); ``None`` becomes zeros."""
        parts = [
            (torch.zeros_like(as_real(p.detach())) if g is None else _dense(g)).reshape(-1)
            for g, p in zip(gradients, self.parameters)
        ]
        torch.cat(parts, out=row) if parts[0].dtype == row.dtype else row.copy_(torch.cat(parts))

    def add(self, gradients: Sequence[Tensor | None], row: Tensor) -> None:
        """Add the gradients to ``row`` (N,)."""
        for view, gradient in zip(self.views(row), gradients):
            if gradient is not None:
                view += _dense(gradient)

    def gradient(self, loss: Tensor, row: Tensor, retain_graph: bool = False) -> bool:
        """Put the gradient of ``loss`` into ``row``; zeros where the loss does not depend on a parameter.

        Returns:
            Whether it depends on any of them.
        """
        if not loss.requires_grad:
            row.zero_()
            return False
        found = torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph, allow_unused=True)
        self.write(found, row)
        return any(g is not None for g in found)

    def assign(self, flat: Tensor) -> None:
        """Let every parameter's ``.grad`` be its part of ``flat`` (N,)."""
        for parameter, view in zip(self.parameters, self.views(flat)):
            if parameter.is_complex():
                view = torch.view_as_complex(view.clone())
            parameter.grad = view.to(parameter.dtype)

    def copy(self) -> Tensor:
        """The parameters themselves as a new flat vector."""
        return torch.cat([as_real(p.detach()).reshape(-1).to(self.dtype) for p in self.parameters])


def _dense(gradient: Tensor) -> Tensor:
    return as_real(gradient if gradient.layout == torch.strided else gradient.to_dense())
