"""The exact Gram matrix of the gradients, and combinations of them that are rounded once."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from decathlon.tasks.pinn.errors import NotFiniteError

_RANGE = (1e-24, 1e24)
"""Squared norms within which float32 products of gradients neither overflow nor lose small entries."""

_COEFFICIENTS = (1e-30, 1e30)
"""Coefficients outside are not applied in float32."""

_CANCELLATION = 1e-3
"""Below this share of ``sum_i |c_i||g_i|`` is left in the sum, its float32 rounding would be seen in the cosines."""

HALVES = (torch.float16, torch.bfloat16)


def as_real(values: Tensor) -> Tensor:
    """Complex numbers (...) as pairs of real ones (..., 2), in the same memory; real numbers as they are."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def real_rows(gradients: Tensor) -> Tensor:
    """The gradients as the operators take them: a real (m, N) matrix without a graph.

    Complex gradients become (m, 2N) pairs of real ones: the inner product is the real part of the complex one.

    Raises:
        ValueError: they are no matrix of floating-point numbers with one row for each loss.
    """
    if not isinstance(gradients, Tensor):
        kind = type(gradients).__name__
        raise ValueError(f"gradients must be a (losses, parameters) matrix, got a {kind}; torch.stack makes one")
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(f"gradients must be a (losses, parameters) matrix, got shape {tuple(gradients.shape)}")
    if not (gradients.is_floating_point() or gradients.is_complex()) or gradients.layout != torch.strided:
        raise ValueError(f"gradients must be a dense matrix of floating-point numbers, got {gradients.dtype}")
    gradients = gradients.detach()
    return as_real(gradients).flatten(1) if gradients.is_complex() else gradients


def like(update: Tensor, gradients: Tensor) -> Tensor:
    """A real update of ``real_rows(gradients)`` as a row of ``gradients``."""
    return torch.view_as_complex(update.unflatten(0, (-1, 2))) if gradients.is_complex() else update


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast: it would multiply float32 gradients in half precision."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


def gramian(gradients: Tensor, rows: slice | None = None, exact: bool = False) -> Tensor:
    """``G[rows] G^T`` in float64 on the CPU, without a copy of G.

    Float32 on the CPU is multiplied in float32 blocks of 4096 columns whose results are added in float64
    (error about 1e-7 of |g_i||g_j|, whatever N); float64, half precision, CUDA (where TF32 may be on),
    numbers that would over- or underflow, and ``exact=True`` are multiplied in float64 (error about 1e-15).
    Of complex gradients it is the real part.

    Args:
        gradients: (m, N).
        rows: which rows; all of them by default.
        exact: multiply in float64.

    Raises:
        NotFiniteError: a gradient holds NaN or infinity; the message says which.
    """
    gradients = real_rows(gradients)
    single = (
        gradients.dtype == torch.float32
        and gradients.device.type == "cpu"
        and torch.get_float32_matmul_precision() == "highest"
        and not exact
    )
    chosen = slice(None) if rows is None else rows
    with full_precision(gradients.device):
        gram = _single(gradients, chosen) if single else _double(gradients, chosen)
        if single and not _in_range(gram, rows):
            gram = _double(gradients, chosen)
    if not bool(gram.isfinite().all()):
        check_rows(gradients)
        raise NotFiniteError("the squared norm of a gradient is not finite: it overflows float64")
    return gram


def check_rows(gradients: Tensor) -> None:
    """Raise NotFiniteError, which says which, if a row of (m, N) holds NaN or infinity."""
    if bool(gradients.sum().isfinite()):
        return
    broken = [i for i, row in enumerate(gradients) if not bool(row.isfinite().all())]
    if broken:
        raise NotFiniteError(f"the gradient of loss {', '.join(map(str, broken))} (counted from 0) is not finite")


def combine(combination: Tensor, gradients: Tensor, gram: Tensor | None = None) -> Tensor:
    """``sum_i c_i g_i``, (N,), in the precision of the gradients.

    Float32 rows are added in float32. In float64, and rounded once, are added: half precision, coefficients far from
    1, and sums in which the gradients almost cancel (for that ``gram`` must be given).

    Args:
        combination: (m,) coefficients c, float64.
        gradients: (m, N), real.
        gram: (m, m) their Gram matrix, float64 on the CPU.

    Raises:
        NotFiniteError: the sum overflows the gradients' precision.
    """
    with full_precision(gradients.device):
        if not _needs_double(combination, gradients.dtype, gram):
            return combination.to(gradients.dtype).to(gradients.device) @ gradients
        update = torch.empty_like(gradients[0])
        for part, block in _blocks(gradients):
            update[part] = (combination.to(block) @ block).to(update)
    if not bool(update.isfinite().all()):
        check_rows(gradients)
        raise NotFiniteError(f"the combined gradient is not finite: it overflows {str(update.dtype)[6:]}")
    return update


def cosines_with(update: Tensor, gradients: Tensor) -> Tensor:
    """(m,) cosines of a vector (N,) with each row of (m, N), in float64 on the CPU; 0 where one of them is 0."""
    parts = []
    for part, block in _blocks(gradients):
        vector = update[part].to(block.device).double()
        parts.append(torch.stack([block @ vector, block.square().sum(dim=1), (vector @ vector).expand(len(block))]))
    projections, squares, square = torch.stack(parts).sum(dim=0).cpu()
    scale = squares.sqrt() * square.sqrt()
    return torch.where(scale > 0, projections / scale, 0.0)


def _needs_double(combination: Tensor, dtype: torch.dtype, gram: Tensor | None) -> bool:
    if dtype == torch.float64:
        return False
    if dtype in HALVES:
        return True
    smallest, largest = _COEFFICIENTS
    if any(abs(c) > largest or 0 < abs(c) < smallest for c in combination.tolist()):
        return True
    if gram is None:
        return False
    most = float(combination.abs() @ gram.diagonal().sqrt())
    left = float(combination @ gram @ combination)
    return left < (_CANCELLATION * most) ** 2 or not most <= 1e38


def _blocks(gradients: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of columns in float64; one takes at most an eighth of the matrix's memory. On the CPU where the device
    has no float64."""
    size, device = gradients.shape[1], gradients.device
    width = max(256, min(size // 16, 1 << 20 if gradients.is_cuda else 8192))
    for start in range(0, size, width):
        part = slice(start, start + width)
        block = gradients[:, part]
        yield part, (block.cpu() if device.type == "mps" else block).double()


def _double(gradients: Tensor, rows: slice) -> Tensor:
    """Gram rows from blocks that are converted to float64."""
    total: Tensor | None = None
    for _, block in _blocks(gradients):
        product = block[rows] @ block.T
        total = torch.zeros_like(product) if total is None else total
        total += product
    assert total is not None
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
