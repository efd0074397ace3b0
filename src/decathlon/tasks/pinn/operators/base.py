"""What a gradient operator is, and what those have in common that need the Gram matrix of the gradients only."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.pinn.operators.gram import HALVES, combine, cosines_with, gramian, like, real_rows


class Stateful:
    """State as tensors and numbers, by attribute name, so that checkpoints load with ``weights_only``."""

    state_names: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """The attributes in ``state_names``; tensors are copied."""
        values = {name: getattr(self, name) for name in self.state_names}
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned.

        Raises:
            ValueError: ``state`` has other entries than this object.
        """
        if set(state) != set(self.state_names):
            raise ValueError(f"state of {type(self).__name__} has {sorted(state)}, expected {sorted(self.state_names)}")
        for name, value in state.items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)

    @contextmanager
    def unchanged_on_error(self) -> Iterator[None]:
        """What goes wrong inside leaves the state as it was."""
        before = self.state_dict()
        try:
            yield
        except BaseException:
            self.load_state_dict(before)
            raise


class Seeded(Stateful):
    """A private random stream: call k draws from a generator that depends on (seed, k) only.

    So a resumed run and every rank of a distributed run draw the same numbers, whatever else uses random
    numbers.
    """

    state_names: tuple[str, ...] = ("calls",)

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.calls = 0

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator on ``device`` for this call."""
        generator = torch.Generator(device)
        generator.manual_seed((self.seed * 2_654_435_761 + self.calls) % 2**32)
        self.calls += 1
        return generator


class Operator(Stateful):
    """Combines the gradients of m losses into one update: ``(m, N) -> (N,)``.

    Subclasses implement ``__call__(gradients, losses=None)``; ``losses`` are the m loss values, which only a
    few operators read.
    """

    by_place = False
    """Whether the result depends on the order of the losses, or on what was kept for each of them."""

    def __call__(self, gradients: Tensor, losses: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class GramOperator(Operator):
    """An operator whose update is a combination ``sum_i c_i g_i`` with c a function of ``G G^T`` alone.

    It reads G twice (Gram matrix, combination) and needs no copy of it. After a call ``cosines`` holds the
    cosine of the update with each gradient.
    """

    batched = False
    """Whether ``coefficients`` takes (..., m, m) and returns (..., m)."""

    _last: tuple[Tensor, Tensor] | None = None
    _measured: Tensor | None = None

    def observe(self, gradients: Tensor, losses: Tensor | None) -> None:
        """Look at the gradients and loss values of this step before ``coefficients``; nothing by default."""

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        """The c of the update, shape (m,), from the Gram matrix (m, m); both float64 on the CPU."""
        raise NotImplementedError

    def well_conditioned(self, gram: Tensor) -> bool:
        """Whether the rounding of a Gram matrix made in single precision cannot be seen in the update."""
        return True

    def weigh(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        """``coefficients``, remembered for ``cosines``."""
        combination = self.coefficients(gram, losses)
        self._last, self._measured = (gram, combination), None
        return combination

    def __call__(self, gradients: Tensor, losses: Tensor | None = None) -> Tensor:
        """The update, in the precision of the gradients and without a graph.

        Half precision is combined in float64 and rounded once. Complex gradients are pairs of real ones. Autocast
        has no effect.

        Args:
            gradients: (m, N), one row for each loss.
            losses: (m,) loss values, optional.

        Raises:
            ValueError: no matrix of floating-point numbers.
            NotFiniteError: a gradient, or the update, is not finite. The operator's state is as it was.
        """
        rows = real_rows(gradients)
        gram = gramian(rows)
        with self.unchanged_on_error():
            self.observe(rows, losses)
            if rows.dtype == torch.float32 and not self.well_conditioned(gram):
                gram = gramian(rows, exact=True)
            combination = self.weigh(gram, losses)
            update = combine(combination, rows, gram)
        if rows.dtype in HALVES:
            self._measured = cosines_with(update, rows)  # its rounding is seen in them
        return like(update, gradients)

    @property
    def cosines(self) -> Tensor:
        """(m,) cosines of the last update with each gradient; 0 for a zero gradient or a zero update."""
        if self._last is None:
            raise ValueError(f"{type(self).__name__} was not called yet")
        if self._measured is not None:
            return self._measured
        gram, combination = self._last
        projections = gram @ combination
        scale = gram.diagonal().sqrt() * (combination @ projections).clamp(min=0).sqrt()
        return torch.where(scale > 0, projections / scale, torch.zeros_like(scale))
