"""What optimizers cost and how well their subspaces fit: bytes of state, captured energy, drift, overlap."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.osd.optimizers.parameters import upright, working_dtype
from decathlon.tasks.osd.optimizers.shards import is_sharded, whole, whole_bytes


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors inside nested dicts, lists, tuples and objects (a peer keeps its projection in one)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "__dict__"):
        yield from tensors(vars(value))


def state_bytes(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor] | None = None) -> int:
    """Bytes of the state of an optimizer, of some of its parameters or of all, over distinct storages.

    A view counts with all that it keeps alive. Works on the meta device too. Where weights are shared out among
    processes: of all of these together, and once what each of them has.
    """
    total, storages = 0, {}
    for p in optimizer.state if parameters is None else parameters:
        state = dict(optimizer.state[p])
        if is_sharded(p):
            total += whole_bytes(state, p)
            continue
        for tensor in tensors(state):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return total + sum(storages.values())


def orthonormality_error(projection: Tensor) -> float:
    """``||P' P - I||_F / sqrt(k)``."""
    gram = projection.mT @ projection
    gram.diagonal().sub_(1)
    return float(torch.linalg.matrix_norm(gram)) / len(gram) ** 0.5


def captured_energy(projection: Tensor, gradient: Tensor) -> float:
    """``||Q' G||^2`` relative to its optimum, the energy of the k largest singular values; Q = orth(P).

    1 also for a zero gradient, of which nothing can be missed.
    """
    return fit(projection, gradient)[0]


def fit(projection: Tensor, gradient: Tensor) -> tuple[float, float]:
    """``captured_energy``, and the ``overlap`` with the gradient's leading left singular vectors."""
    rank = projection.shape[1]
    vectors, values, _ = torch.linalg.svd(gradient, full_matrices=False)
    best = float(values[:rank].square().sum())
    basis = torch.linalg.qr(projection).Q
    captured = float((basis.mT @ gradient).square().sum()) / best if best > 0 else 1.0
    return captured, float((basis.mT @ vectors[:, :rank]).square().sum()) / rank


def overlap(one: Tensor, other: Tensor) -> float:
    """``||Qa' Qb||_F^2 / k`` of the spans of two projections: 1 if they are the same, 0 if orthogonal."""
    a, b = torch.linalg.qr(one).Q, torch.linalg.qr(other).Q
    return float((a.mT @ b).square().sum()) / a.shape[1]


def projections(optimizer: torch.optim.Optimizer) -> dict[Tensor, Tensor]:
    """The projection of each parameter that has one."""
    return {p: state["projection"] for p, state in optimizer.state.items() if "projection" in state}


def subspace_quality(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Means over the weights that have a projection and a gradient; empty if there are none.

    ``captured`` energy, ``overlap`` with the present gradient's best subspace, ``drift`` (orthonormality error).
    """
    found = []
    for p, projection in projections(optimizer).items():
        if p.grad is not None:
            captured, common = fit(projection, upright(whole(p.grad)).to(working_dtype(p)))
            found.append((captured, common, orthonormality_error(projection)))
    means = [sum(column) / len(found) for column in zip(*found)]
    return dict(zip(("captured", "overlap", "drift"), means))
