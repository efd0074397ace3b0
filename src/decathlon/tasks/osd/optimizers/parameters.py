"""Single parameters: their orientation, names, norms of gradients, and which can be projected."""

import math
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def upright(weight: Tensor) -> Tensor:
    """A matrix as (n, m) with n <= m: a view; one with as many rows as columns, or more, is transposed."""
    return weight if weight.shape[0] < weight.shape[1] else weight.mT


def working_dtype(p: Tensor) -> torch.dtype:
    """What a parameter's projection is kept and computed in."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def gradient_norms(gradients: Iterable[tuple[Tensor, str]]) -> list[float]:
    """The Frobenius norm of each gradient; the device is waited for once.

    Raises:
        FloatingPointError: one line, if one is not finite. ValueError: if one is sparse.
    """
    found = list(gradients)
    for gradient, name in found:
        if gradient.is_sparse:
            raise ValueError(f"the gradient of {name} is sparse; use a dense one")
    each = [torch.linalg.vector_norm(g, dtype=working_dtype(g)).to(torch.float64) for g, _ in found]
    norms = torch.stack([norm.to(each[0].device) for norm in each]).tolist() if each else []
    for place, (gradient, name) in enumerate(found):
        if norms[place] == 0 or not math.isfinite(norms[place]):  # squares of single precision end at 1e-45 and 1e38
            norms[place] = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        if not math.isfinite(norms[place]):
            raise FloatingPointError(f"the gradient of {name} is not finite; its weight has not moved")
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
    if hasattr(p, "device_mesh"):
        raise ValueError(f"{name} is sharded over devices (a DTensor, FSDP2): that is not supported; use DDP")
    if not p.is_floating_point():
        raise ValueError(f"{name} has dtype {p.dtype}: only real floating-point parameters can be trained")
    if projected and (p.ndim != 2 or not p.numel()):
        raise ValueError(
            f"{name} has shape {tuple(p.shape)}, and only matrices can be projected: give it a group without rank "
            "(FSDP flattens all parameters: use DDP)"
        )
