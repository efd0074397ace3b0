"""Build an object from a plain mapping that names its class."""

import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from decathlon.errors import ConfigError

DESCRIPTIVE = {"name", "title", "class", "ignores"}
_SCALARS: dict[type, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}


def locate(path: str) -> Any:
    """The object that a dotted path names, for example ``torch.nn.Linear``.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = str(path).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it needs is not installed
        raise ConfigError(f"{path} is no class that can be found: {error}") from error


def build(spec: Mapping[str, Any], *args: Any, called: str = "", **extra: Any) -> Any:
    """Call ``spec["class"]`` with the other keys of ``spec`` as keyword arguments.

    ``name``, ``title`` and ``ignores`` describe a config to people and to the runner and are not passed on.

    Args:
        spec: the mapping.
        args, extra: what the caller adds; ``extra`` wins over ``spec``.
        called: what the spec is to the user, for example ``method``; the messages begin ``method=<name>``.

    Raises:
        ConfigError: in one line, an option that the class does not have (with those that it has), one that is
            missing, one of another type than the class says, or a value that its constructor refuses (ValueError).
    """
    if "class" not in spec:
        raise ConfigError(f"{called or 'the mapping'} names no class: it has {', '.join(map(str, spec)) or 'no keys'}")
    target = locate(spec["class"])
    name = str(spec.get("name") or spec["class"].rpartition(".")[2])
    label = f"{called}={name}" if called else name
    options = {key: value for key, value in spec.items() if key not in DESCRIPTIVE}
    check_options(target, options, label, given=len(args), also=extra)
    try:
        return target(*args, **{**options, **extra})
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{label}: {error}") from error


def check_options(
    target: Any, options: Mapping[str, Any], label: str, given: int = 0, also: Mapping[str, Any] | None = None
) -> None:
    """Whether ``target`` can be called with these keyword arguments.

    Args:
        target: a class or a function. A class that takes ``**options`` says what they may be in ``__signature__``.
        options: what the user sets. also: what the program adds.
        label: how the messages begin.
        given: how many positional arguments the program adds.

    Raises:
        ConfigError: as in :func:`build`.
    """
    parameters = list(inspect.signature(target).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    filled = {p.name for p in positional[:given]}
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    choices = [key for key in named if key not in filled and key not in (also or {})]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in options:
            if key not in named or key in filled:
                raise ConfigError(f"{label} has no option {key}; choose {', '.join(choices) or 'none'}")
    needed = [p.name for p in named.values() if p.default is p.empty and p.name not in filled]
    absent = [key for key in needed if key not in options and key not in (also or {})]
    if absent:
        raise ConfigError(f"{label} needs the option {absent[0]}")
    hints = _hints(target) | {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    for key, value in options.items():
        if key in hints and not _fits(value, hints[key]):
            raise ConfigError(f"{label}: {key}={value} is no {_words(hints[key])}")


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(getattr(target, "__init__") if isinstance(target, type) else target)  # noqa: B009
    except (NameError, TypeError, AttributeError):
        return {}


def _members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a config is what the annotation says; anything but plain scalars passes."""
    members = _members(hint)
    if not all(member in _SCALARS or member is type(None) for member in members):
        return True
    if value is None:
        return True  # null: the class's own choice, or its own message
    accepted = tuple(kind for member in members if member in _SCALARS for kind in _SCALARS[member])
    if isinstance(value, bool):
        return bool in members
    if isinstance(value, float) and value.is_integer() and int in members:
        return True
    return isinstance(value, accepted) or not isinstance(value, (str, int, float, list, dict))


def _words(hint: Any) -> str:
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return " or ".join(words[member] for member in _members(hint) if member in words)
