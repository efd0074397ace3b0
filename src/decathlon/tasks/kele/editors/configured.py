"""The editor of a run: built from the method's config, with the model's contexts and key statistics."""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from decathlon.build import DESCRIPTIVE, build, check_options, locate
from decathlon.errors import ConfigError
from decathlon.tasks.kele.data.corpus import corpus_texts, world_texts
from decathlon.tasks.kele.models import ModelSpec

log = logging.getLogger(__name__)


def check_method(method: Mapping[str, Any]) -> None:
    """Raise a one-line ConfigError for an option that the method's editor does not have, or a value it cannot have."""
    editor, label = locate(method["class"]), f"method={method['name']}"
    given = {name: value for name, value in method.items() if name not in DESCRIPTIVE}
    check_options(editor, given, label, given=2)  # model and tokenizer come later
    options = getattr(editor, "options_class", None)
    if options is None:
        return
    known = {field.name for field in fields(options)}
    try:
        options(**{name: value for name, value in given.items() if name in known and value is not None})
    except ValueError as error:
        raise ConfigError(f"{label}: {error}") from error


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

    What the run says and the editor has no use for (a corpus for fine-tuning) is left away.

    Args:
        layer: overrides the method's and the preset's layer unless null.
        corpus: for the key statistics, see ``data.corpus.corpus_texts``; ``world``: rows of the world's training.
        samples: how many texts of it.

    Raises:
        ConfigError: one line, for what only the model can tell: a layer it does not have, its family.
    """
    takes = inspect.signature(locate(method["class"])).parameters
    extra: dict[str, Any] = {"bos": bos, "seed": spec.seed}
    if layer is not None and "layer" in takes:
        extra["layer"] = layer
    if "corpus" in takes:
        if corpus == "world":
            extra["corpus"] = world_texts(spec.world_training().world(), tokenizer, samples)
        else:
            extra |= {"corpus": corpus_texts(root, corpus), "samples": samples}
    if "cache" in takes and not spec.is_world:
        extra["cache"] = root / "kele"  # the world's statistics take a fraction of a second
    try:
        built = build(method, model, tokenizer, called="method", **extra)
    except ConfigError as error:
        label, text = f"method={method['name']}", str(error)
        raise ConfigError(f"{label} on model={spec.name}{text.removeprefix(label)}") from error
    if getattr(built, "moments", None) is not None:
        # Now, not within the first edit: they belong to the model, and seconds per edit shall not hold them.
        built.moments.compute(built.layers)
        log.debug("contexts: %s", built.contexts)
    return built
