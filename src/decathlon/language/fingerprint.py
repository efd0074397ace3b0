"""Short names for the exact content of models and tokenizers: caches of what was computed are kept under them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.storage import digest

_SAMPLE = 4096
_CHUNK = 2**24
_ODD = 0x1E3779B97F4A7C15
_PARTS = {".safetensors", ".bin", ".gguf", ".json", ".txt", ".model"}
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# What a config says of its own origin and of how it is run, not of what the model computes.
_NOT_CONTENT = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache"}


def fingerprint(model: torch.nn.Module) -> str:
    """Hexadecimal digest (16 characters) of a model: its class, its config (activation, norms, positions, …), and
    names, shapes, dtypes and values of all parameters.

    Of each parameter 4,096 spread entries are hashed, and two integer sums of the bit patterns of all entries, one of
    them weighted by the entry's place. They do not depend on the order of summation: an edit of a weight or an
    exchange of two entries changes them, another thread count does not.
    """
    parts: list[Any] = [type(model).__name__, config_content(model)]
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        bits = flat.view(_WORDS[flat.element_size()])
        stride = max(1, bits.numel() // _SAMPLE)
        spread = bits[::stride][: _SAMPLE + 1].cpu()
        parts.append([name, list(parameter.shape), str(parameter.dtype), *_sums(bits), spread])
    return digest(parts)


def _sums(bits: Tensor) -> tuple[int, int]:
    plain = placed = 0
    for first in range(0, bits.numel(), _CHUNK):
        part = bits[first : first + _CHUNK].to(torch.int64)
        weights = (torch.arange(first, first + len(part), device=bits.device) * 2 + 1) * _ODD  # wraps around
        plain += int(part.sum())
        placed += int((part * weights).sum())
    return plain, placed % 2**64


def config_content(model: Any) -> str:
    """The config of a transformers model as text, without what changes no result; empty if it has none."""
    config = getattr(model, "config", None)
    if config is None:
        return ""
    kept = {name: value for name, value in config.to_dict().items() if name not in _NOT_CONTENT}
    return json.dumps(kept, sort_keys=True, default=str)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hexadecimal digest (16 characters) of how a tokenizer turns texts into ids: vocabulary, rules, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = [type(tokenizer).__name__, str(getattr(tokenizer, "init_kwargs", ""))]
    else:
        state = json.loads(backend.to_str())
        rules = json.dumps({**state, "truncation": None, "padding": None}, sort_keys=True)  # set anew by every call
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest(rules, special, tokenizer.get_vocab())


def files_fingerprint(path: str | Path) -> str:
    """Hexadecimal digest (16 characters) of a saved model, without loading it: names, sizes and times of its files.

    Weights, config and tokenizer of a folder (its direct files with such endings), or one file. A model that is saved
    anew gets another digest, and so does a copy that keeps no times: what was cached is then computed once more.
    """
    path = Path(path)
    found = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix in _PARTS and file.is_file():
            stat = file.stat()
            found.append([file.name, stat.st_size, stat.st_mtime_ns])
    return digest(found)
