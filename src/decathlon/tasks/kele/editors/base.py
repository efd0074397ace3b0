"""What every editor does: check requests, find updates, write them and take them back."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from decathlon.language.forward import check_plain_head
from decathlon.language.layouts import check_layer
from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.presets import settings
from decathlon.tasks.kele.update import Update, written

log = logging.getLogger(__name__)


class Editor(Protocol):
    """Changes facts in a language model, for as long as a context is open.

    An editor that leaves the weights alone and answers questions itself has two more methods: ``answers(questions)``
    gives, for each question, the answer and how it came about, with the update in place whose context is open;
    ``remember(edits)`` is told the edits of all requests beforehand.
    """

    model: Any
    tokenizer: Any

    def prepare(self, requests: Sequence[Sequence[Edit]]) -> list[Update]:
        """The update of each request on its own: a request is the list of edits that are to hold together."""
        ...

    def applied(self, update: Update) -> AbstractContextManager[None]:
        """The model with an update in it; afterwards every weight is what it was, bit for bit."""
        ...

    def apply(self, edits: Sequence[Edit]) -> AbstractContextManager[None]:
        """``prepare`` one request and have it ``applied``."""
        ...


@dataclass(frozen=True)
class Options:
    """Options that all editors have.

    Args:
        bos: ``auto`` puts a document separator before every row if the tokenizer puts nothing there (a subject at
            position 0 would stand on the attention sink); ``off``: as in ROME's code.
        seed: of everything that is drawn.
        max_tokens: tokens in one forward pass with gradients; None: as many as fit into about 1 GiB.
    """

    bos: Any = "auto"
    seed: int = 0
    max_tokens: int | None = None


class BaseEditor:
    """Common ground of the editors; ``prepare`` is theirs.

    Args:
        model: a causal language model (GPT-2, GPT-J, LLaMA, Mistral or Qwen2 family). It is changed inside ``apply``
            and ``applied`` only.
        tokenizer: its (fast) tokenizer.
        layer: the layer to edit, or several, for editors that spread over layers; None: the preset's.
        preset: settings for this model: a name from ``presets.PRESETS``, ``auto``, or None.
        options: fields of the editor's ``options_class``, which win over the preset; None counts as not given.

    Raises:
        ValueError: for an unsupported model, a layer it does not have, or an unknown or impossible option.
    """

    options_class: ClassVar[type[Options]] = Options
    chain: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, model: Any, tokenizer: Any, layer: int | Sequence[int] | None = None, *,
        preset: str | None = "auto", cache: str | Path | None = None, **options: Any,
    ) -> None:  # fmt: skip
        check_plain_head(model)
        self.model, self.tokenizer = model, tokenizer
        self.cache = Path(cache) if cache is not None else None
        found = dict(settings(model, preset, self.chain or ("none",)))
        preset_layer = found.pop("layer")
        known = {field.name for field in fields(self.options_class)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ValueError(f"{type(self).__name__} has no option {unknown[0]}; choose {', '.join(sorted(known))}")
        given = {name: value for name, value in options.items() if value is not None}
        if isinstance(given.get("bos"), bool):  # YAML reads off as false
            given["bos"] = "auto" if given["bos"] else "off"
        self.options: Any = self.options_class(**{name: v for name, v in found.items() if name in known} | given)
        if self.options.bos not in ("auto", "off"):
            raise ValueError(f"bos={self.options.bos} is unknown; choose auto or off")
        chosen = preset_layer if layer is None else layer
        self.layers = [check_layer(model, chosen)] if isinstance(chosen, int) else self._layers(chosen)

    def _layers(self, layers: Sequence[int]) -> list[int]:
        raise ValueError(f"{type(self).__name__} edits one layer, not {len(layers)}")

    @property
    def layer(self) -> int:
        """The layer at which recall vectors are found: the last one edited."""
        return self.layers[-1]

    def prepare(self, requests: Sequence[Sequence[Edit]]) -> list[Update]:
        """The update of each request on its own: a request is the list of edits that are to hold together."""
        for request in requests:
            for edit in request:
                if not isinstance(edit, Edit):
                    raise ValueError(f"a request is a list of Edit, not {type(edit).__name__}")
        training = self.model.training
        self.model.eval()
        try:
            # Gradients are needed even where a caller (Lightning's test loop) has switched them off.
            with torch.inference_mode(False), torch.no_grad():
                return self._prepare([list(request) for request in requests])
        finally:
            self.model.train(training)

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        raise NotImplementedError

    def plan(self, edits: Sequence[Edit]) -> list[Update]:
        """The update of each edit on its own: ``prepare`` with one edit per request."""
        return self.prepare([[edit] for edit in edits])

    @contextmanager
    def applied(self, update: Update) -> Iterator[None]:
        """The model with an update in it; afterwards every weight is what it was, bit for bit, whatever happened."""
        with written(self.model, update.deltas):
            yield

    @contextmanager
    def apply(self, edits: Sequence[Edit]) -> Iterator[None]:
        """The model with these edits in it; afterwards every weight is what it was, bit for bit, whatever happened."""
        (update,) = self.prepare([edits])
        with self.applied(update):
            yield
