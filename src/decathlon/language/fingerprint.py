"""A short name for the exact weights of a model: caches of what was computed from them are kept under it."""

import hashlib
from pathlib import Path

import torch

_SAMPLE = 4096
_PARTS = {".safetensors", ".bin", ".gguf", ".json", ".txt", ".model"}
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


def files_fingerprint(path: str | Path) -> str:
    """Hexadecimal digest (16 characters) of a saved model, without loading it: names, sizes and times of its files.

    Weights, config and tokenizer of a folder (its direct files with such endings), or one file. A model that is saved
    anew gets another digest, and so does a copy that keeps no times: what was cached is then computed once more.
    """
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix in _PARTS and file.is_file():
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
