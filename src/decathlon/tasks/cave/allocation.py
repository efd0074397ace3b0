"""How the replicas on one vehicle share its compute: the closed form of the allocation subproblem."""

from typing import Any

import torch
from torch import Tensor


def allocate(work: Any, weight: Any = 1.0, active: Any = None, lower: Any = None) -> Tensor:
    """Shares of one vehicle's compute that minimise the weighted sum of its replicas' latencies.

    min sum_j weight_j work_j / (y_j F)  subject to  sum_j y_j <= 1,  y >= lower. Without lower bounds the KKT
    conditions give y_j proportional to sqrt(weight_j work_j), and the value (sum_j sqrt(weight_j work_j))^2 / F. With
    them y_j = max(lower_j, sqrt(weight_j work_j / (nu F))), nu such that the shares sum to one.

    In-progress replicas enter with their *remaining* work. The rule is optimal for shares that stay as they are; a
    loop that shares anew whenever a replica ends rewards short ones instead.

    Args:
        work: (..., J) remaining cycles; leading axes are vehicles, scenarios, …
        weight: (..., J), positive.
        active: (..., J) bool, which entries are replicas; None: all.
        lower: (..., J) smallest shares, in [0, 1], or None. Where they sum to more than one nothing fits, and the
            shares are the lower bounds divided by their sum.

    Returns:
        (..., J) shares in ``work``'s floating type; 0 where inactive or without work (unless ``lower`` says
        otherwise). Nothing to share gives zeros.

    Raises:
        ValueError: NaN, infinite or negative work, weights that are not positive, lower bounds outside of [0, 1].
    """
    work = torch.as_tensor(work)
    if not work.is_floating_point():
        work = work.to(torch.get_default_dtype())
    dtype = work.dtype
    if work.ndim == 0:
        raise ValueError("work needs one dimension at least, the replicas of a vehicle")
    amount = work.detach().double()
    weights = torch.as_tensor(weight, device=work.device).detach().double()
    here = torch.ones((), dtype=torch.bool, device=work.device)
    if active is not None:
        here = torch.as_tensor(active, device=work.device)
        if here.dtype != torch.bool:
            raise ValueError(f"active must be bool, it is {here.dtype}")
    try:
        amount, weights, here = torch.broadcast_tensors(amount, weights, here)
    except RuntimeError:
        shapes = ", ".join(str(tuple(x.shape)) for x in (amount, weights, here))
        raise ValueError(f"work, weight and active have shapes {shapes} that do not go together") from None
    amount, weights = torch.where(here, amount, 0.0), torch.where(here, weights, 1.0)
    if not bool((amount.isfinite() & (amount >= 0)).all()):
        raise ValueError("work must be finite and not negative")
    if not bool((weights.isfinite() & (weights > 0)).all()):
        raise ValueError("weight must be finite and positive")
    root = torch.sqrt(amount * weights)
    if lower is None:
        return _shares(root, torch.ones_like(root[..., :1])).to(dtype)
    floor = torch.as_tensor(lower, device=work.device).detach().double()
    floor = torch.where(here, floor, 0.0).broadcast_to(root.shape)
    if not bool(((floor >= 0) & (floor <= 1)).all()):
        raise ValueError("lower must lie between 0 and 1")
    return _bounded(root, floor).to(dtype)


def _shares(root: Tensor, available: Tensor) -> Tensor:
    """``available`` split in proportion to ``root``; zeros where there is nothing."""
    total = root.sum(-1, keepdim=True)
    return torch.where(total > 0, root / torch.where(total > 0, total, 1.0) * available, 0.0)


def _bounded(root: Tensor, floor: Tensor) -> Tensor:
    """Active-set clipping: replicas whose share would be below their bound get the bound, the others the rest."""
    held = torch.zeros_like(root, dtype=torch.bool)
    shares = root
    for _ in range(root.shape[-1] + 1):
        rest = 1 - torch.where(held, floor, 0.0).sum(-1, keepdim=True)
        free = _shares(torch.where(held, 0.0, root), rest.clamp(min=0))
        shares = torch.where(held, floor, free)
        below = ~held & (free < floor)
        if not bool(below.any()):
            break
        held |= below
    total = floor.sum(-1, keepdim=True)
    return torch.where(total > 1, floor / total.clamp(min=1), shares)
