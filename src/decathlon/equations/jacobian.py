"""Jacobians of residuals by parameters, for Gauss-Newton and Levenberg-Marquardt steps and neural tangent kernels."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def jacobian(residuals: Tensor | Sequence[Tensor], parameters: Iterable[Tensor]) -> Tensor:
    """The derivatives of every residual by every parameter.

    A reverse pass for each row; with the Taylor engine on a CPU it costs that of one point.

    Args:
        residuals: a tensor, or one for each equation, of any shapes, computed with gradients enabled. The rows are
            their entries, one equation after the other.
        parameters: of the network, and unknown coefficients.

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
    rows = iter(matrix)
    for part in parts:
        for residual in part.reshape(-1).unbind(0):
            row = next(rows)
            if part.requires_grad:
                found = torch.autograd.grad(
                    residual, listed, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                torch.cat([gradient.reshape(-1) for gradient in found], out=row)
    return matrix
