"""What a loss weighting is, and a vector of weights that is learned."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.pinn.errors import NotFiniteError
from decathlon.tasks.pinn.losses import loss_vector
from decathlon.tasks.pinn.operators.base import Stateful
from decathlon.tasks.pinn.operators.gram import check_rows, real_rows


class Weighting(Stateful):
    """Gives the weight of each loss: ``weights = weighting(losses)``, shapes (m,), detached.

    Subclasses implement ``weights_for``. What is kept from step to step is kept by place: the losses come in the
    same order, and as many of them, every time.

    ``needs_gradients``: it must also be given the (m, N) gradients. ``needs_after_step``: after the
    optimizer's step ``after_step`` must be given the losses on the same batch again.
    """

    needs_gradients = False
    needs_after_step = False
    by_place = True
    least = float("-inf")
    """Losses below it have no weights."""

    def __call__(self, losses: Any, gradients: Tensor | None = None) -> Tensor:
        """The weights.

        Args:
            losses: (m,) values: a vector, or a list of numbers.
            gradients: (m, N), where they are needed.

        Returns:
            (m,), float32 or better.

        Raises:
            ValueError: another number of losses than before, or the gradients are missing.
            NotFiniteError: a loss, a gradient or a weight is not finite. The state is as it was.
        """
        losses = self._checked(losses)
        if self.needs_gradients:
            if gradients is None:
                raise ValueError(f"{type(self).__name__} needs the gradients: weighting(losses, gradients)")
            gradients = real_rows(gradients)
            check_rows(gradients)
            if len(gradients) != len(losses):
                raise ValueError(f"{len(losses)} losses and {len(gradients)} gradients given")
        with self.unchanged_on_error():
            weights = self.weights_for(losses, gradients)
            if not bool(weights.isfinite().all()):
                raise NotFiniteError(f"the weights of {type(self).__name__} are not finite: {weights.tolist()}")
        return weights

    def weights_for(self, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
        """The weights (m,) of checked losses (m,), detached; takes them into the state."""
        raise NotImplementedError

    def after_step(self, losses: Any) -> None:
        """Learn from the losses after the step, on the same batch."""

    def _checked(self, losses: Any) -> Tensor:
        losses, name = loss_vector(losses), type(self).__name__
        known = [v.shape[-1] for v in self.state_dict().values() if isinstance(v, Tensor) and v.ndim]
        if known and known[0] != len(losses):
            raise ValueError(f"{len(losses)} losses given, but {name} has weights for {known[0]}")
        if bool((losses < self.least).any()):
            i = int(losses.argmin())
            raise NotFiniteError(
                f"the weights of {name} are not finite: it takes logarithms, and loss {i} (counted from 0) is "
                f"{float(losses[i])}"
            )
        return losses


class Ascent(Stateful):
    """Adam for a vector of weights, in the sign of a maximisation or a minimisation given by the gradient."""

    def __init__(self, start: Tensor, lr: float, weight_decay: float = 0.0) -> None:
        self.value, self.lr, self.weight_decay = start, lr, weight_decay
        self.first, self.second, self.count = torch.zeros_like(start), torch.zeros_like(start), 0

    state_names = ("value", "first", "second", "count")

    def descend(self, gradient: Tensor) -> None:
        """One Adam step (beta 0.9 and 0.999, eps 1e-8, L2 weight decay) down ``gradient``."""
        gradient = gradient + self.weight_decay * self.value
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first = self.first / (1 - 0.9**self.count)
        second = self.second / (1 - 0.999**self.count)
        self.value = self.value - self.lr * first / (second.sqrt() + 1e-8)


class Learned(Weighting):
    """A weighting with a vector learned by Adam; it is made when the number of losses is known."""

    start = 0.0

    def __init__(self, weight_lr: float, weight_decay: float = 0.0) -> None:
        self.weight_lr, self.weight_decay = weight_lr, weight_decay
        self.learned: Ascent | None = None

    def _vector(self, losses: Tensor) -> Ascent:
        if self.learned is None:
            self.learned = Ascent(torch.full_like(losses.detach(), self.start), self.weight_lr, self.weight_decay)
        for name in ("value", "first", "second"):
            setattr(self.learned, name, getattr(self.learned, name).to(losses))
        return self.learned

    def state_dict(self) -> dict[str, Any]:
        learned = {} if self.learned is None else self.learned.state_dict()
        return {**super().state_dict(), **learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rest = {name: value for name, value in state.items() if name not in self.state_names}
        if rest and set(rest) != set(Ascent.state_names):
            expected = sorted({*self.state_names, *Ascent.state_names})
            raise ValueError(f"state of {type(self).__name__} has {sorted(state)}, expected {expected}")
        super().load_state_dict({name: value for name, value in state.items() if name not in rest})
        self.learned = None
        if rest:
            self.learned = Ascent(rest["value"].clone(), self.weight_lr, self.weight_decay)
            self.learned.load_state_dict(rest)
