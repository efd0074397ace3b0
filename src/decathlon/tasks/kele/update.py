"""A change of weights: kept as factors or as a difference, written, and taken back bit for bit."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from decathlon.files import atomic
from decathlon.language.decoder import is_transposed
from decathlon.storage import load_state


@dataclass
class LowRank:
    """The matrix ``left @ right.T``, added to a weight of shape (out, in): left (out, rank), right (in, rank)."""

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """(out, in)."""
        return self.left @ self.right.T

    def then(self, other: "LowRank") -> "LowRank":
        """The sum of the two."""
        return LowRank(torch.cat([self.left, other.left], dim=1), torch.cat([self.right, other.right], dim=1))

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return self.left.nbytes + self.right.nbytes


@dataclass
class Dense:
    """A whole new weight of shape (out, in): what an editor that trains the weight makes."""

    value: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self.value.nbytes


@dataclass
class Update:
    """What one request does to a model.

    attributes:
        deltas: by module name, the change of its weight.
        notes: numbers and texts about how it was found, one mapping per edit (final loss, steps, norms, warnings).
        seconds: wall time spent on it; a batch's time is shared evenly.
    """

    deltas: dict[str, LowRank | Dense] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes that the change takes up."""
        return sum(delta.nbytes for delta in self.deltas.values())

    def write(self, model: torch.nn.Module) -> None:
        """Change the model's weights for good. Updates may be written one upon the other."""
        with torch.no_grad():
            for name, delta in self.deltas.items():
                module: Any = model.get_submodule(name)
                module.weight.copy_(changed(module.weight, delta, is_transposed(module)))

    def applied(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """The model with the update in it while the context is open."""
        return written(model, self.deltas)

    def save(self, path: str | Path) -> None:
        """Write the update to a file, which :meth:`load` reads without executing anything."""
        deltas = {
            name: {"value": delta.value} if isinstance(delta, Dense) else {"left": delta.left, "right": delta.right}
            for name, delta in self.deltas.items()
        }
        deltas = {name: {key: value.detach().cpu() for key, value in parts.items()} for name, parts in deltas.items()}
        with atomic(path) as temporary:
            torch.save({"deltas": deltas, "notes": self.notes, "seconds": self.seconds}, temporary)

    @classmethod
    def load(cls, path: str | Path) -> "Update":
        """What :meth:`save` has written.

        Raises:
            DataError: the file is missing or damaged.
        """
        state = load_state(path)
        deltas = {
            name: Dense(parts["value"]) if "value" in parts else LowRank(parts["left"], parts["right"])
            for name, parts in state["deltas"].items()
        }
        return cls(deltas, state["notes"], state["seconds"])

    def add(self, name: str, delta: LowRank) -> None:
        """Add a low-rank change of module ``name`` to what is there."""
        present = self.deltas.get(name)
        self.deltas[name] = present.then(delta) if isinstance(present, LowRank) else delta


def changed(weight: Tensor, delta: LowRank | Dense, transposed: bool) -> Tensor:
    """The new weight, in the stored orientation and dtype; a sum is formed in at least float32."""
    if isinstance(delta, Dense):
        return (delta.value.T if transposed else delta.value).to(weight)
    difference = delta.dense().to(weight.device)
    difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
    return (weight.to(difference.dtype) + (difference.T if transposed else difference)).to(weight.dtype)


_OPEN: "WeakKeyDictionary[torch.nn.Module, list[list[tuple[Tensor, Tensor]]]]" = WeakKeyDictionary()
"""By model, for each edit that is in place, its changed weights with their old values."""


@contextmanager
def written(model: torch.nn.Module, deltas: Mapping[str, LowRank | Dense]) -> Iterator[None]:
    """The model with the changes in it while the context is open; afterwards its old weights, from a saved copy."""
    saved: list[tuple[Tensor, Tensor]] = []
    _OPEN.setdefault(model, []).append(saved)
    try:
        with torch.no_grad():
            for name, delta in deltas.items():
                module: Any = model.get_submodule(name)
                new = changed(module.weight, delta, is_transposed(module))
                saved.append((module.weight, module.weight.detach().clone()))
                module.weight.copy_(new)
        yield
    finally:
        with torch.no_grad():
            for weight, old in reversed(saved):
                weight.copy_(old)
        _OPEN[model] = [edit for edit in _OPEN[model] if edit is not saved]


@contextmanager
def unedited(model: torch.nn.Module) -> Iterator[None]:
    """The model without the edits that are in place, while the context is open: what belongs to it is computed so."""
    saved = [pair for edit in _OPEN.get(model, []) for pair in edit]
    edited = [(weight, weight.detach().clone()) for weight, _ in saved]
    try:
        with torch.no_grad():
            for weight, old in reversed(saved):
                weight.copy_(old)
        yield
    finally:
        with torch.no_grad():
            for weight, new in edited:
                weight.copy_(new)
