"""Where processed data is kept: beside the raw data if that folder can be written, else in a cache of the user."""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decathlon.errors import DataError
from decathlon.files import cached


def user_cache() -> Path:
    """``DECATHLON_CACHE``, or ``decathlon`` in the user's cache folder."""
    named = os.environ.get("DECATHLON_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "decathlon"


def writable(folder: Path) -> bool:
    """Whether files may be made in ``folder``, or in the nearest ancestor of it that exists.

    A folder that is marked read-only for everybody counts as read-only for the superuser too.
    """
    while not folder.exists():
        if folder == folder.parent:
            return False
        folder = folder.parent
    anybody = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    return folder.is_dir() and bool(folder.stat().st_mode & anybody) and os.access(folder, os.W_OK | os.X_OK)


def processed_path(root: str | Path, file: str) -> Path:
    """Path of a processed file: in ``root/processed`` if it is there or can be made there, else in the user's cache."""
    beside = Path(root) / "processed" / file
    if beside.exists() or writable(beside.parent):
        return beside
    return user_cache() / file


def digest(*parts: Any) -> str:
    """Sixteen hexadecimal digits that identify the whole content of ``parts``: the key of a cached file.

    Args:
        parts: None, numbers, strings, bytes, paths (their text), tensors and arrays (dtype, shape and every entry), and
            sequences and mappings of these.

    Raises:
        TypeError: for anything else, whose text need not say what is in it.
    """
    content = hashlib.sha256()
    _add(content, parts)
    return content.hexdigest()[:16]


def _add(content: Any, part: Any) -> None:
    if isinstance(part, Mapping):
        content.update(b"{%d" % len(part))
        for key in sorted(part, key=str):
            _add(content, str(key))
            _add(content, part[key])
    elif isinstance(part, (list, tuple)):
        content.update(b"[%d" % len(part))
        for item in part:
            _add(content, item)
    elif isinstance(part, (str, Path)):
        text = str(part).encode()
        content.update(b"s%d:" % len(text) + text)
    elif part is None or isinstance(part, (bool, int, float)):
        content.update(f"n{part!r};".encode())
    elif isinstance(part, bytes):
        content.update(b"b%d:" % len(part) + part)
    elif isinstance(part, torch.Tensor):
        flat = part.detach().cpu().contiguous().view(-1)
        content.update(f"t{part.dtype}{tuple(part.shape)}".encode())
        content.update(flat.view(torch.uint8).numpy().tobytes() if len(flat) else b"")
    elif isinstance(part, (np.ndarray, np.generic)) and part.dtype != object:
        content.update(f"a{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    else:
        raise TypeError(f"a {type(part).__name__} cannot be part of the key of a cache")


def cached_state(
    root: str | Path, name: str, key: Mapping[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The dict of tensors, numbers and strings that ``make`` returns, computed once per ``name`` and ``key``.

    Raises:
        DataError: the cached file is broken.
    """
    path = processed_path(root, f"{name}-{digest(dict(key))}.pt")
    return cached(path, make, torch.save, load_state)


def load_state(path: str | Path) -> dict[str, Any]:
    """A dict that ``torch.save`` wrote, of tensors, numbers, strings, lists and dicts.

    Raises:
        DataError: the file is no such thing.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types on broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is broken ({reason[:120]}); delete it and it is made again") from error
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}, not a dict")
    return state
