"""Jacobians of residuals by parameters, for Gauss-Newton and Levenberg-Marquardt steps and neural tangent kernels."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# Numbers that one block of rows may hold: its part of the Jacobian, and a layer's gradients at all the points.
BLOCK, UNITS = 1 << 24, 64


def jacobian(residuals: Tensor | Sequence[Tensor], parameters: Iterable[Tensor], rows: int | None = None) -> Tensor:
    """The derivatives of every residual by every parameter.

    Args:
        residuals: a tensor, or one for each equation, of any shapes, computed with gradients enabled. The rows are
            their entries, one equation after the other.
        parameters: of the network, and unknown coefficients.
        rows: how many rows are computed at a time; by default as many as fit into some hundred megabytes.

    Returns:
        (residuals, numbers in the parameters), zeros where a residual does not depend on a parameter; without a graph.
        The graph of the residuals is kept.

    Raises:
        ValueError: there is no parameter.
    """
    listed = list(parameters)
    if not listed:
        raise ValueError("no parameters are given to differentiate the residuals by")
    parts = [residuals] if isinstance(residuals, Tensor) else list(residuals)
    width = sum(parameter.numel() for parameter in listed)
    matrix = torch.zeros(sum(part.numel() for part in parts), width, dtype=listed[0].dtype, device=listed[0].device)
    start = 0
    for part in parts:
        block = matrix[start : start + part.numel()]
        start += part.numel()
        if part.requires_grad:
            _fill(block, part.reshape(-1), listed, rows or max(1, BLOCK // (width + UNITS * part.numel())))
    return matrix


def _fill(matrix: Tensor, residuals: Tensor, parameters: list[Tensor], rows: int) -> None:
    def row(direction: Tensor) -> Tensor:
        found = torch.autograd.grad(
            residuals, parameters, direction, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([gradient.reshape(-1) for gradient in found])

    for start in range(0, len(residuals), rows):
        directions = torch.zeros(min(rows, len(residuals) - start), len(residuals), dtype=residuals.dtype)
        directions[range(len(directions)), range(start, start + len(directions))] = 1
        matrix[start : start + len(directions)] = torch.func.vmap(row)(directions.to(residuals.device))
