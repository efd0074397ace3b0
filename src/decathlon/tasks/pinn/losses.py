"""The losses of a step as users give them: dicts, lists, vectors, tensors or functions."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.pinn.errors import NotFiniteError

Loss = Tensor | Callable[[], Tensor]
Losses = Mapping[str, Loss] | Sequence[Loss]


def listed(losses: Losses | Tensor) -> list[Loss]:
    """The losses of a dict, a sequence or a vector, in order.

    Raises:
        ValueError: none given, or in no order.
    """
    if isinstance(losses, Tensor):
        losses = list(losses.reshape(-1))
    if isinstance(losses, AbstractSet | str) or not hasattr(losses, "__iter__"):
        raise ValueError(f"losses must be a dict, a list or a vector, got {_words(losses)}")
    items = list(losses.values()) if isinstance(losses, Mapping) else list(losses)
    if not items:
        raise ValueError("no losses given")
    return items


def evaluate(loss: Loss) -> Tensor:
    """The scalar loss; a closure is called.

    Raises:
        ValueError: it is not a real scalar tensor.
    """
    value = loss() if callable(loss) else loss
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"a loss must be a scalar tensor or a function that returns one, got {_words(value)}")
    if value.is_complex():
        raise ValueError("a loss must be a real number, got a complex one; take its real part or its absolute value")
    return value.reshape(())


def loss_vector(losses: Any) -> Tensor:
    """Loss values (m,), detached, in float32 or better.

    Args:
        losses: a vector, or a list of scalars: tensors, numbers or NumPy's.

    Raises:
        ValueError: they are no such thing.
        NotFiniteError: one of them is NaN or infinite; the message says which.
    """
    if not isinstance(losses, Tensor):
        losses = torch.stack([torch.as_tensor(value).reshape(()) for value in listed(losses)])
    if losses.ndim != 1 or not len(losses) or losses.is_complex():
        raise ValueError(f"losses must be a vector of real numbers, got {_words(losses)}")
    losses = losses.detach()
    if losses.dtype not in (torch.float32, torch.float64):
        losses = losses.float()
    check_losses(losses)
    return losses


def check_losses(values: Tensor) -> None:
    """Raise NotFiniteError, which says which, if one of the losses (m,) is NaN or infinite."""
    finite = values.isfinite()
    if not bool(finite.all()):
        broken = ", ".join(str(i) for i, good in enumerate(finite.tolist()) if not good)
        raise NotFiniteError(f"loss {broken} (counted from 0) is not finite")


def check_gradient(gradient: Tensor, whose: str) -> None:
    """Raise NotFiniteError if a gradient holds NaN or infinity; as a rule one sum tells that it does not."""
    if not bool(gradient.sum().isfinite()) and not bool(gradient.isfinite().all()):
        raise NotFiniteError(f"the gradient of {whose} is not finite")


class LossOrder:
    """Which loss is which: a dict is put into the order of the first one, by name.

    What is kept for a loss from step to step (a momentum, a weight) is kept by its place, so a dict that was made
    in another order must not exchange two of them. Lists and vectors are taken as they come.
    """

    def __init__(self) -> None:
        self.names: list[Any] | None = None

    def arranged(self, losses: Losses | Tensor, fixed: bool = True, count: int | None = None) -> list[Loss]:
        """The losses in the order of the first dict.

        Args:
            losses: dict, list or vector.
            fixed: other names are an error; otherwise they begin a new order.
            count: how many there must be.

        Raises:
            ValueError: another number, or other names.
        """
        items = listed(losses)
        if count is not None and len(items) != count:
            raise ValueError(f"{len(items)} losses given, MConFIG was made for num_losses={count}")
        if not isinstance(losses, Mapping):
            return items
        if self.names is None or (not fixed and set(self.names) != set(losses)):
            self.names = list(losses)
        elif set(self.names) != set(losses):
            raise ValueError(f"losses {_names(losses)} given, but so far they were {_names(self.names)}")
        return [losses[name] for name in self.names]

    def places(self, losses: Losses | Tensor) -> list[int] | None:
        """Where each loss of ``losses`` is in ``arranged``; None where the order is the same."""
        if not isinstance(losses, Mapping) or self.names is None or list(losses) == self.names:
            return None
        return [self.names.index(name) for name in losses]


def _names(names: Any) -> str:
    return ", ".join(map(str, names))


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value!r}" if isinstance(value, int | float | str) else type(value).__name__
