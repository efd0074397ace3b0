"""An edit request, and what makes one bad."""

from dataclasses import dataclass
from typing import Any

from decathlon.language.tokens import continuation_ids

SLOT = "{}"


@dataclass(frozen=True)
class Edit:
    """Change the fact (subject, relation, old) into (subject, relation, new).

    Args:
        prompt: a text whose continuation is the object, with ``{}`` where the subject stands
            (``"{} is the capital of"``). A prompt with the subject already filled in, once, is taken as well.
        subject: the entity that the fact is about.
        old: the object that the model knows. Only erasing editors and metrics need it.
        new: the object that it shall know.

    Raises:
        ValueError: one line, if the subject or the new object is empty, the prompt has no place for the subject, or
            the two objects are the same.
    """

    prompt: str
    subject: str
    old: str
    new: str

    def __post_init__(self) -> None:
        for name in ("subject", "new"):
            if not getattr(self, name).strip():
                raise ValueError(f"an edit with prompt {self.prompt!r} has an empty {name}")
        if self.old.strip() == self.new.strip():
            raise ValueError(f"the edit of {self.subject!r} changes nothing: old and new are both {self.new!r}")
        slots = self.prompt.count(SLOT)
        if slots > 1:
            raise ValueError(f"the prompt {self.prompt!r} has {slots} slots {{}}; it needs exactly one")
        if slots == 0:
            found = self.prompt.count(self.subject)
            if found != 1:
                raise ValueError(
                    f"the prompt {self.prompt!r} has no slot {{}} and holds the subject {self.subject!r} "
                    f"{'not at all' if not found else f'{found} times'}; mark its place with {{}}"
                )
            object.__setattr__(self, "prompt", self.prompt.replace(self.subject, SLOT))

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace(SLOT, self.subject)

    @property
    def span(self) -> tuple[int, int]:
        """Where the subject stands in ``text``: its first character and the one after its last."""
        start = self.prompt.index(SLOT)
        return start, start + len(self.subject)


def object_text(name: str) -> str:
    """An object as it follows a prompt: after one space."""
    return " " + name.strip()


def object_ids(tokenizer: Any, name: str) -> list[int]:
    """Token ids of an object that follows a prompt, without BOS.

    Raises:
        ValueError: if the tokenizer does not know a word of it.
    """
    ids = continuation_ids(tokenizer, object_text(name))
    check_known(tokenizer, ids, name)
    return ids


def check_known(tokenizer: Any, ids: list[int], text: str) -> None:
    """Raise a one-line ValueError if ``ids`` holds the tokenizer's unknown token, which carries no information."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in ids or str(tokenizer.unk_token) in text:
        return
    vocabulary = tokenizer.get_vocab()
    words = [word for word in text.split() if word not in vocabulary]
    raise ValueError(f"{words[0] if words else text!r} in {text!r} is not in the tokenizer's vocabulary")
