"""Single parameters: their orientation, names, norms of gradients, and which can be projected."""

import math
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.osd.optimizers.shards import check_placement, is_sharded, local, summed


def upright(weight: Tensor, like: Tensor | None = None) -> Tensor:
    """A matrix as (n, m) with n <= m: a view; one with as many rows as columns, or more, is transposed.

    Args:
        weight: the matrix, or a part of it. like: the whole matrix, whose shape decides.
    """
    shape = (weight if like is None else like).shape
    return weight if shape[0] < shape[1] else weight.mT


def working_dtype(p: Tensor) -> torch.dtype:
    """What a parameter's projection is kept and computed in."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def gradient_norms(gradients: Iterable[tuple[Tensor, str]]) -> list[float]:
    """The Frobenius norm of each gradient, whole or sharded; the device is waited for once.

    Raises:
        FloatingPointError: one line, if one is not finite. ValueError: if one is sparse.
    """
    found = list(gradients)
    for gradient, name in found:
        if gradient.is_sparse:
            raise ValueError(f"the gradient of {name} is sparse; use a dense one")
    each = [torch.linalg.vector_norm(local(g), dtype=working_dtype(g)).to(torch.float64) for g, _ in found]
    norms = torch.stack([norm.to(each[0].device) for norm in each]).tolist() if each else []
    for place, (gradient, _) in enumerate(found):
        if norms[place] == 0 or not math.isfinite(norms[place]):  # squares of single precision end at 1e-45 and 1e38
            norms[place] = float(torch.linalg.vector_norm(local(gradient), dtype=torch.float64))
    if any(is_sharded(gradient) for gradient, _ in found):
        norms = _over_processes(norms, [gradient for gradient, _ in found])
    for norm, (_, name) in zip(norms, found):
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of {name} is not finite; its weight has not moved")
    return norms


def _over_processes(norms: list[float], gradients: list[Tensor]) -> list[float]:
    """The norms of whole gradients from those of this process's parts, in one sum for all."""
    places = [place for place, gradient in enumerate(gradients) if is_sharded(gradient)]
    first = gradients[places[0]]
    mine = torch.tensor([norms[place] for place in places], dtype=torch.float64, device=local(first).device)
    for place, square in zip(places, summed(mine.square(), first).tolist()):
        norms[place] = math.sqrt(square)
    return norms


def check_rank(rank: Any) -> int:
    """A rank as a whole number. Raises ValueError, in one line."""
    try:
        number = operator.index(rank)
    except TypeError:
        raise ValueError(f"rank={rank} is no whole number") from None
    if number < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    return number


def check_rule_options(betas: Any, eps: Any) -> None:
    if betas is not None and (len(betas) != 2 or not all(0 <= float(beta) < 1 for beta in betas)):
        raise ValueError(f"betas={betas} must be two numbers from 0 to below 1")
    if eps is not None and not 0 <= float(eps) < math.inf:
        raise ValueError(f"eps={eps} must be a number that is not negative")


def name_of(group: dict[str, Any], index: int) -> str:
    names = group.get("param_names")
    return str(names[index]) if names else f"parameter {index} ({'x'.join(map(str, group['params'][index].shape))})"


def check_parameter(p: Tensor, name: str, projected: bool) -> None:
    if is_sharded(p):
        check_placement(p, name)
    if not p.is_floating_point():
        raise ValueError(f"{name} has dtype {p.dtype}: only real floating-point parameters can be trained")
    if projected and (p.ndim != 2 or not p.numel()):
        raise ValueError(
            f"{name} has shape {tuple(p.shape)}, and only matrices can be projected: give it a group without rank "
            "(FSDP flattens all parameters: use DDP)"
        )
