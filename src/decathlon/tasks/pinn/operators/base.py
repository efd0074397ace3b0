"""What a gradient operator is, and the exact Gram matrix that most of them need."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_RANGE = (1e-24, 1e24)
"""Squared norms within which float32 products of gradients neither overflow nor lose small entries."""

_LARGEST = 1e30
"""Coefficients above it are not applied in the gradients' own precision."""


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
        self._last = gram, combination
        return combination

    def __call__(self, gradients: Tensor, losses: Tensor | None = None) -> Tensor:
        """The update.

        Args:
            gradients: (m, N), one row for each loss.
            losses: (m,) loss values, optional.

        Raises:
            ValueError: wrong shape, or a gradient is not finite.
        """
        check_shape(gradients)
        gram = gramian(gradients)  # raises before the weights have seen what is not finite
        self.observe(gradients, losses)
        if gradients.dtype == torch.float32 and not self.well_conditioned(gram):
            gram = gramian(gradients, exact=True)
        combination = self.weigh(gram, losses)
        return combine(combination, gradients)

    @property
    def cosines(self) -> Tensor:
        """(m,) cosines of the last update with each gradient; 0 for a zero gradient or a zero update."""
        if self._last is None:
            raise ValueError(f"{type(self).__name__} was not called yet")
        gram, combination = self._last
        projections = gram @ combination
        scale = gram.diagonal().sqrt() * (combination @ projections).clamp(min=0).sqrt()
        return torch.where(scale > 0, projections / scale, torch.zeros_like(scale))


def check_shape(gradients: Tensor) -> None:
    """Raise ValueError unless ``gradients`` is a matrix with one row for each loss."""
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(f"gradients must be a (losses, parameters) matrix, got shape {tuple(gradients.shape)}")


def combine(combination: Tensor, gradients: Tensor) -> Tensor:
    """``sum_i c_i g_i``, (N,): float64 coefficients (m,) and gradients (m, N) in their own precision.

    A gradient with a norm of 1e-38 or less can have a coefficient beyond float32; then the sum is made in float64.
    """
    precise = float(combination.abs().max()) > _LARGEST
    rows = gradients.double() if precise else gradients
    return (combination.to(rows.device, rows.dtype) @ rows).to(gradients.dtype)


def gramian(gradients: Tensor, rows: slice | None = None, exact: bool = False) -> Tensor:
    """``G[rows] G^T`` in float64 on the CPU, without a copy of G.

    Float32 on the CPU is multiplied in float32 blocks of 4096 columns whose results are added in float64
    (error about 1e-7 of |g_i||g_j|, whatever N); float64, half precision, CUDA (where TF32 may be on),
    numbers that would over- or underflow, and ``exact=True`` are multiplied in float64 (error about 1e-15).

    Args:
        gradients: (m, N).
        rows: which rows; all of them by default.
        exact: multiply in float64.

    Raises:
        ValueError: a gradient holds NaN or infinity; the message says which.
    """
    single = (
        gradients.dtype == torch.float32
        and gradients.device.type == "cpu"
        and torch.get_float32_matmul_precision() == "highest"
        and not exact
    )
    chosen = slice(None) if rows is None else rows
    gram = _single(gradients, chosen) if single else _double(gradients, chosen)
    if single and not _in_range(gram, rows):
        gram = _double(gradients, chosen)
    if not bool(gram.isfinite().all()):
        broken = [i for i, row in enumerate(gradients) if not bool(row.isfinite().all())]
        if broken:
            raise ValueError(f"the gradient of loss {', '.join(map(str, broken))} (counted from 0) is not finite")
        raise ValueError("the squared norm of a gradient overflows float64")
    return gram


def _double(gradients: Tensor, rows: slice) -> Tensor:
    """Gram rows from blocks that are converted to float64; a block takes at most an eighth of G's memory."""
    losses, size = gradients.shape
    width = max(256, min(size // 16, 1 << 20 if gradients.is_cuda else 8192))
    total = torch.zeros(len(gradients[rows]), losses, dtype=torch.float64, device=gradients.device)
    for start in range(0, size, width):
        block = gradients[:, start : start + width].double()
        total += block[rows] @ block.T
    return total.cpu()


def _single(gradients: Tensor, rows: slice) -> Tensor:
    """Gram rows from float32 products of blocks of 4096 columns, which are added in float64."""
    width, batch = 4096, 64
    whole = gradients.shape[1] // width * width
    tail = gradients[:, whole:]
    total = (tail[rows] @ tail.T).double()
    for start in range(0, whole, width * batch):
        stop = min(whole, start + width * batch)
        blocks = gradients[:, start:stop].unflatten(1, (-1, width)).transpose(0, 1)
        total += torch.bmm(blocks[:, rows], blocks.mT).sum(dim=0, dtype=torch.float64)
    return total


def _in_range(gram: Tensor, rows: slice | None) -> bool:
    squares = gram.diagonal() if rows is None else gram.diagonal(offset=rows.start or 0)
    low, high = _RANGE
    return bool(((squares >= low) & (squares <= high)).all()) and bool(gram.isfinite().all())
