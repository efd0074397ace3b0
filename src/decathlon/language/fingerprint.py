"""A short name for the exact weights of a model: caches of what was computed from them are kept under it."""

import hashlib

import torch

_SAMPLE = 4096
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(model: torch.nn.Module) -> str:
    """Hexadecimal digest (16 characters) of names, shapes, dtypes and values of all parameters.

    Of each parameter 4,096 spread entries are hashed, and the integer sum of the bit patterns of all entries, which
    does not depend on the order of summation: an edit of a weight changes it, another thread count does not.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        bits = flat.view(_WORDS[flat.element_size()])
        stride = max(1, bits.numel() // _SAMPLE)
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} {int(bits.sum(dtype=torch.int64))}".encode())
        digest.update(bits[::stride][: _SAMPLE + 1].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
