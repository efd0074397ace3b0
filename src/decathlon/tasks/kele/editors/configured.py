"""The editor of a run: built from the method's config, with the model's contexts and key statistics."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decathlon.build import build, locate
from decathlon.errors import ConfigError
from decathlon.tasks.kele.data.corpus import corpus_texts, world_texts
from decathlon.tasks.kele.models import ModelSpec

log = logging.getLogger(__name__)


def check_method(method: Mapping[str, Any]) -> None:
    """Raise a one-line ConfigError for an option that the method's editor does not have, or a value it cannot have."""
    editor = locate(method["class"])
    options = getattr(editor, "options_class", None)
    if options is None:
        return
    fields = set(inspect.signature(options).parameters)
    stray = sorted(set(method) - fields - _parameters(editor) - {"name", "title", "class", "ignores"})
    if stray:
        raise ConfigError(f"method={method['name']} has no option {stray[0]}; choose {', '.join(sorted(fields))}")
    try:
        given = options(**{name: value for name, value in method.items() if name in fields and value is not None})
        getattr(given, "objective", None)  # built, and so checked, when asked for
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method={method['name']}: {error}") from error


def answers_itself(method: Mapping[str, Any]) -> bool:
    """Whether the method's editor changes no weight and answers questions itself (see ``editors.base.Editor``)."""
    return hasattr(locate(method["class"]), "answers")


def make_editor(
    method: Mapping[str, Any],
    model: Any,
    tokenizer: Any,
    spec: ModelSpec,
    *,
    root: Path,
    layer: int | list[int] | None,
    corpus: str,
    samples: int,
    bos: str,
) -> Any:
    """The editor, ready to prepare updates: contexts sampled, key statistics computed.

    Args:
        layer: overrides the method's and the preset's layer unless null.
        corpus: for the key statistics, see ``data_corpus.corpus_texts``; ``world``: rows of the world's training.
        samples: how many texts of it.
    """
    editor = locate(method["class"])
    extra: dict[str, Any] = {"bos": bos, "seed": spec.seed}
    if layer is not None:
        extra["layer"] = layer
    if "corpus" in _parameters(editor):  # editors without statistics take it as well, and do not read it
        if corpus == "world":
            extra["corpus"] = world_texts(spec.world_training().world(), tokenizer, samples)
        else:
            extra["corpus"] = corpus_texts(root, corpus)
            if "samples" in inspect.signature(editor.options_class).parameters:
                extra["samples"] = samples
    if "cache" in _parameters(editor) and not spec.is_world:
        extra["cache"] = root / "kele"  # the world's statistics take a fraction of a second
    built = build(method, model, tokenizer, **extra)
    if getattr(built, "moments", None) is not None:
        # Now, not within the first edit: they belong to the model, and seconds per edit shall not hold them.
        built.moments.compute(built.layers)
        log.debug("contexts: %s", built.contexts)
    return built


def _parameters(editor: type) -> set[str]:
    """Names of the arguments that an editor's constructor or those of its base classes take, besides options."""
    names: set[str] = set()
    for base in editor.__mro__[:-1]:
        if "__init__" in vars(base):
            signature = inspect.signature(vars(base)["__init__"])
            names |= {name for name, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD}
    return names - {"self", "model", "tokenizer"}
