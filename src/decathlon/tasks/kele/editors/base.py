"""What every editor does: check requests, find updates, write them and take them back."""

import inspect
import logging
import operator
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, get_type_hints

import torch

from decathlon.language.decoder import check_family, check_layer, decoder_of
from decathlon.language.scoring import score
from decathlon.language.tokens import separator_id
from decathlon.tasks.kele.edit import Edit, object_text
from decathlon.tasks.kele.editors.presets import settings
from decathlon.tasks.kele.update import Update, written

log = logging.getLogger(__name__)

_TAKEN = 0.5  # P(new) below which another object may be likelier
_NAMED = 3  # edits that a warning names


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
        bos: ``off``: texts begin as the tokenizer begins them, which is what ``model.generate(**tokenizer(text))``
            sees. ``auto``: behind a document separator if the tokenizer puts nothing there (a subject at position 0
            stands on the attention sink); then evaluate behind it too, as ``language.score`` and ``generate`` do.
        seed: of everything that is drawn.
    """

    bos: Any = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bos not in ("auto", "off"):
            raise ValueError(f"bos={self.bos} is unknown; choose auto or off")


def signature_of(cls: type["BaseEditor"]) -> inspect.Signature:
    """How an editor is called: the arguments of its constructor, then the fields of its ``options_class``."""
    parameters = [
        p for p in inspect.signature(cls.__init__).parameters.values() if p.name != "self" and p.kind != p.VAR_KEYWORD
    ]
    hints, named = get_type_hints(cls.options_class), {p.name for p in parameters}
    options = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[f.name] | None)
        for f in fields(cls.options_class)
        if f.name not in named and f.name not in cls.unused
    ]
    return inspect.Signature([*parameters, *options])


class BaseEditor:
    """Common ground of the editors; ``prepare`` is theirs.

    Args:
        model: a causal language model of a family in ``language.decoder.FAMILIES``. It is changed inside ``apply`` and
            ``applied`` only.
        tokenizer: its (fast) tokenizer.
        options: fields of the editor's ``options_class``; None counts as not given.

    Raises:
        ValueError: one line, for an unsupported model, or an unknown or impossible option.
    """

    options_class: ClassVar[type[Options]] = Options
    unused: ClassVar[tuple[str, ...]] = ()
    """Options of the class that this editor has no use for, and refuses."""
    writes: ClassVar[bool] = True
    """Whether an edit shows in what the model itself says."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = signature_of(cls)  # type: ignore[attr-defined]  # what check_options and help() show

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        check_family(model)
        self.model, self.tokenizer = model, tokenizer
        self.options: Any = self._options(options, {})
        self._warned = False

    def _options(self, options: dict[str, Any], preset: dict[str, Any]) -> Any:
        known = [field.name for field in fields(self.options_class)]
        for name in options:
            if name not in known or name in self.unused:
                choices = ", ".join(sorted(inspect.signature(type(self)).parameters.keys() - {"model", "tokenizer"}))
                raise ValueError(f"{type(self).__name__} has no option {name}; choose {choices}")
        given = {name: value for name, value in options.items() if value is not None}
        if isinstance(given.get("bos"), bool):  # YAML reads off as false
            given["bos"] = "auto" if given["bos"] else "off"
        return self.options_class(**{name: value for name, value in preset.items() if name in known} | given)

    def prepare(self, requests: Sequence[Sequence[Edit]]) -> list[Update]:
        """The update of each request on its own: a request is the list of edits that are to hold together.

        It warns if texts begin otherwise here than in plain generation, and names the edits that may not have taken.
        """
        if isinstance(requests, Edit) or any(isinstance(request, Edit) for request in requests):
            raise ValueError("prepare takes requests, each a list of Edit: prepare([[edit]]), or plan([edit])")
        for request in requests:
            for edit in request:
                if not isinstance(edit, Edit):
                    raise ValueError(f"a request is a list of Edit, not {type(edit).__name__}")
        training = self.model.training
        self.model.eval()
        try:
            # Gradients are needed even where a caller (Lightning's test loop) has switched them off.
            with torch.inference_mode(False), torch.no_grad():
                updates = self._prepare([list(request) for request in requests])
        finally:
            self.model.train(training)
        if self.writes:
            self._warn_of_separator()
            self._warn_of_failures(requests, updates)
        return updates

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        raise NotImplementedError

    def _warn_of_separator(self) -> None:
        if self._warned or self.options.bos == "off":
            return
        self._warned = True
        separator = separator_id(self.tokenizer)
        if separator is not None:
            token = self.tokenizer.convert_ids_to_tokens(separator)
            log.warning(
                "edits are found behind %s, which this tokenizer does not put before a text: put it there when you ask "
                "(language.score and generate do), or edit with bos=off",
                token,
            )

    def _warn_of_failures(self, requests: Sequence[Sequence[Edit]], updates: Sequence[Update]) -> None:
        """One line about the edits whose ``p_new``, P(new) where the search for them ended, is small."""
        failed = []
        for request, update in zip(requests, updates):
            # An editor that trains on a whole request has one note for all of its edits.
            for edit, note in zip(request, update.notes):
                if note.get("p_new", 1.0) < _TAKEN:
                    failed.append(f"{edit.text!r} -> {edit.new!r} with P(new) = {note['p_new']:.2g}")
        if failed:
            more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
            log.warning("%d edits may not have taken: %s%s", len(failed), "; ".join(failed[:_NAMED]), more)

    def plan(self, edits: Sequence[Edit]) -> list[Update]:
        """The update of each edit on its own: ``prepare`` with one edit per request."""
        if isinstance(edits, Edit):
            raise ValueError("plan takes a list of Edit")
        return self.prepare([[edit] for edit in edits])

    @contextmanager
    def applied(self, update: Update) -> Iterator[None]:
        """The model with an update in it; afterwards every weight is what it was, bit for bit, whatever happened."""
        with written(self.model, update.deltas):
            yield

    def write(self, update: Update) -> None:
        """Write an update into the model for good; more may follow. ``model.save_pretrained`` then keeps the edit."""
        update.write(self.model)

    @contextmanager
    def apply(self, edits: Sequence[Edit]) -> Iterator[None]:
        """The model with these edits in it; afterwards every weight is what it was, bit for bit, whatever happened.

        It warns of every edit whose new object is not what the edited model says after the plain prompt.
        """
        if isinstance(edits, Edit):
            raise ValueError("apply takes a list of Edit: apply([edit])")
        (update,) = self.prepare([edits])
        with self.applied(update):
            if self.writes and edits:
                self._check(edits)
            yield

    def _check(self, edits: Sequence[Edit]) -> None:
        texts = [edit.text for edit in edits]
        new = [object_text(edit.text, edit.new) for edit in edits]
        with torch.inference_mode(False), torch.no_grad():
            found = score(self.model, self.tokenizer, texts, new, bos="off")
        for edit, greedy, mean in zip(edits, found.greedy.tolist(), found.mean.exp().tolist()):
            if not greedy:
                log.warning("plain generation after %r does not say %r (P = %.2g)", edit.text, edit.new, mean)


class LayerEditor(BaseEditor):
    """An editor that changes the MLP's last matrix of one layer, or of several.

    Args:
        layer: the layer to edit, or several, for editors that spread over layers; None: the preset's.
        preset: settings for this model: a name from ``presets.PRESETS``, ``auto``, or None; options that are given win.

    Raises:
        ValueError: also for a layer that the model does not have, or weights that cannot be edited.
    """

    chain: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, model: Any, tokenizer: Any, layer: int | Sequence[int] | None = None, *,
        preset: str | None = "auto", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, tokenizer)
        decoder_of(model).check_editable()
        found = dict(settings(model, preset, self.chain))
        preset_layer = found.pop("layer")
        self.options = self._options(options, found)
        self.layers = self._layers(_whole_numbers(preset_layer if layer is None else layer))

    def _layers(self, layers: list[int]) -> list[int]:
        if len(layers) != 1:
            raise ValueError(f"{type(self).__name__} edits one layer, not {len(layers)}")
        return [check_layer(self.model, layers[0])]

    @property
    def layer(self) -> int:
        """The layer at which recall vectors are found: the last one edited."""
        return self.layers[-1]


def _whole_numbers(layer: Any) -> list[int]:
    """One or several layers, of whatever integer type, as a list."""
    try:
        if isinstance(layer, (str, bool)):
            raise TypeError
        return [operator.index(layer)] if not hasattr(layer, "__iter__") else [operator.index(one) for one in layer]
    except TypeError as error:
        raise ValueError(f"layer={layer!r} is neither a whole number nor several of them") from error
