"""Tensors in 8 bits: blocks of 256 numbers, each scaled by its largest magnitude, on a dynamic grid.

Dettmers et al., *8-bit Optimizers via Block-wise Quantization* (ICLR 2022): the grid is finer near zero, seven decades
deep. It is signed for first moments, and one-sided for second ones.
"""

from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 256
SMALLEST = 4096  # tensors below this keep 32 bits
_DECADES = 7


def is_small(numel: int) -> bool:
    """Whether a tensor of so many elements stays in 32 bits."""
    return numel < SMALLEST


@lru_cache(maxsize=8)
def grid(signed: bool, device: torch.device | str = "cpu") -> Tensor:
    """The 256 numbers that a byte stands for, ascending, 0 and 1 among them (float32).

    Decade e from 10^-6 to 1 is divided evenly, into twice as many parts as the one below it.
    """
    numbers = [0.0, 1.0]
    for decade in range(_DECADES):
        parts = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1.0, parts + 1, dtype=torch.float64)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - _DECADES + 1)
        numbers += middles.tolist() + ([-x for x in middles.tolist()] if signed else [])
    return torch.tensor(sorted(numbers), dtype=torch.float32, device=device)


def quantise(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes (numel,) uint8 and the scale of each block (blocks,) float32."""
    flat = values.detach().reshape(-1).float()
    count = flat.numel()
    blocks = -(-count // BLOCK)
    padded = torch.nn.functional.pad(flat, (0, blocks * BLOCK - count)).view(blocks, BLOCK)
    scale = padded.abs().amax(dim=1)
    relative = padded / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    numbers = grid(signed, flat.device)
    middles = (numbers[1:] + numbers[:-1]) / 2
    codes = torch.bucketize(relative, middles).to(torch.uint8)
    return codes.view(-1)[:count].clone(), scale


def dequantise(codes: Tensor, scale: Tensor, signed: bool, shape: torch.Size) -> Tensor:
    """The numbers that codes and scales stand for, of the given shape (float32)."""
    values = grid(signed, codes.device)[codes.int()]
    return (values * scale.repeat_interleave(BLOCK)[: len(values)]).view(shape)
