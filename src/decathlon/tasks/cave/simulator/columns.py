"""Scenarios with different numbers of vehicles as the rows of one tensor."""

import torch
from torch import Tensor


def packed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (S, W) of the entries of (S, V) that are true, in order, for the fullest row; and which are there."""
    row, column = mask.nonzero(as_tuple=True)
    count = torch.bincount(row, minlength=len(mask))
    width = int(count.max()) if len(row) else 0
    place = torch.arange(len(row), device=mask.device) - (count.cumsum(0) - count)[row]
    columns = torch.zeros(len(mask), width, dtype=torch.int64, device=mask.device)
    columns[row, place] = column
    return columns, torch.arange(width, device=mask.device) < count[:, None]


def with_ego(lenders: Tensor, value: float) -> Tensor:
    """(S, V) from (S, V - 1): a first column for the ego."""
    own = torch.full((len(lenders), 1), value, dtype=lenders.dtype, device=lenders.device)
    return torch.cat([own, lenders], 1)


def row_sum(x: Tensor) -> Tensor:
    """Sum of every row in the order of its columns, whatever its padding."""
    return x.cumsum(1)[:, -1] if x.shape[1] else torch.zeros(len(x), dtype=x.dtype, device=x.device)
