"""MeLLo (Zhong et al. 2023, section 5): edits are remembered as sentences, and the model is asked step by step.

Written from the paper's description, with demonstrations of our own.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from decathlon.language.forward import device_of
from decathlon.language.generation import generate
from decathlon.language.tokens import encode
from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.base import BaseEditor, Options
from decathlon.tasks.kele.editors.mello_dialogue import DEMONSTRATIONS, Dialogue, converse, sentence
from decathlon.tasks.kele.editors.mello_memory import Embed, Encoder, Memory, OwnStates
from decathlon.tasks.kele.update import Update

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MelloOptions(Options):
    """Options of MeLLo.

    Args:
        memory: ``case``: a request finds its own edits only. ``all``: besides them those of all other requests, as far
            as ``remember`` was told of them; where two change the same fact, the request's own one holds.
        encoder: folder or hub name of an encoder that embeds facts and subquestions (``facebook/contriever`` in the
            paper); None: the edited model's own last hidden states.
        max_hops: subquestions per question, at most.
        tokens: of a generated subquestion with its tentative answer, at most.
    """

    memory: str = "case"
    encoder: str | None = None
    max_hops: int = 4
    tokens: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory not in ("case", "all"):
            raise ValueError(f"memory={self.memory} is unknown; choose case or all")
        for name in ("max_hops", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


@dataclass
class Remembered(Update):
    """A request's own facts; no weight changes. ``nbytes`` counts their sentences and embeddings."""

    memory: Memory = field(default_factory=Memory)

    @property
    def nbytes(self) -> int:
        """Bytes of the sentences and their embeddings."""
        return sum(len(sentence(edit).encode()) for edit in self.memory.edits) + self.memory.vectors.nbytes


class Mello(BaseEditor):
    """Answers questions with a memory of edited facts beside the unchanged model.

    While ``applied(update)`` is open, ``answers`` goes through the memory; the model itself is what it was.
    """

    options_class: ClassVar[type[Options]] = MelloOptions
    writes: ClassVar[bool] = False

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        name = self.options.encoder
        self.embed: Embed = (
            OwnStates(model, tokenizer, self.options.bos) if name is None else Encoder(name, device_of(model))
        )
        self._others, self._open = Memory(), Memory()

    def remember(self, edits: Sequence[Edit]) -> None:
        """Be told the edits of all requests to come; ``memory=all`` puts them beside each request's own ones."""
        if self.options.memory == "all":
            unique = tuple(dict.fromkeys(edits))
            self._others = Memory(unique, self.embed([sentence(edit) for edit in unique]))

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        began = time.perf_counter()
        facts = [sentence(edit) for request in requests for edit in request]
        vectors = self.embed(facts)
        updates: list[Update] = []
        first = 0
        for request in requests:
            mine = slice(first, first + len(request))
            first = mine.stop
            notes: list[dict[str, Any]] = [{"fact": fact} for fact in facts[mine]]
            updates.append(Remembered(notes=notes, memory=Memory(tuple(request), vectors[mine])))
        for update in updates:
            update.seconds = (time.perf_counter() - began) / len(updates)
        return updates

    @contextmanager
    def applied(self, update: Update) -> Iterator[None]:
        """The memory with the facts of an update in it; afterwards it is what it was."""
        before = self._open
        try:
            if isinstance(update, Remembered):
                self._open = self._others.with_own(update.memory)
            yield
        finally:
            self._open = before

    def answers(self, questions: Sequence[str]) -> list[tuple[str, str]]:
        """For each question the final answer, empty if the conversation came to none, and the whole conversation."""
        return [(talk.answer, talk.text) for talk in self.converse(questions)]

    def converse(self, questions: Sequence[str]) -> list[Dialogue]:
        """The conversations about some questions, side by side."""
        return converse(questions, self._say, self._find, self.options.max_hops, self.options.tokens)

    def _find(self, subquestions: Sequence[str]) -> Sequence[Edit | None]:
        if not self._open.edits:
            return [None] * len(subquestions)
        return self._open.nearest(self.embed(subquestions))

    def _say(self, texts: Sequence[str], stop: Sequence[str], tokens: int) -> list[str]:
        prompts = [f"{DEMONSTRATIONS.rstrip()}\n\n{text}" for text in texts]
        fitting = list(prompts)
        if self.model.config.model_type == "gpt2":  # positions are learned: there are none beyond the last
            room = self.model.config.n_positions - tokens
            rows = encode(self.tokenizer, prompts, self.options.bos)
            fitting = [prompt for prompt, row in zip(prompts, rows) if len(row) <= room]
            if len(fitting) < len(prompts):
                log.warning("%d conversations are too long for the model and end", len(prompts) - len(fitting))
        said = generate(self.model, self.tokenizer, fitting, tokens, list(stop), bos=self.options.bos)
        known = dict(zip(fitting, said))
        return [known.get(prompt, "") for prompt in prompts]
