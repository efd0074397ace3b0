"""Build an object from a plain mapping that names its class."""

import importlib
from collections.abc import Mapping
from typing import Any

_DESCRIPTIVE = {"name", "title", "class", "ignores"}


def locate(path: str) -> Any:
    """The object that a dotted path names, for example ``torch.nn.Linear``."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def build(spec: Mapping[str, Any], *args: Any, **extra: Any) -> Any:
    """Call ``spec["class"]`` with the other keys of ``spec`` as keyword arguments.

    ``name``, ``title`` and ``ignores`` describe a config to people and to the runner and are not passed on.
    ``extra`` wins over ``spec``.
    """
    options = {key: value for key, value in spec.items() if key not in _DESCRIPTIVE}
    return locate(spec["class"])(*args, **{**options, **extra})
