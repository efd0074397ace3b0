"""An edit request, and what makes one bad."""

import re
from dataclasses import dataclass
from typing import Any

from decathlon.language.tokens import continuation_ids

SLOT = "{}"
# Scripts that put no space between words: Thai, Lao, Tibetan, Burmese, Khmer, Chinese, Japanese, and their punctuation.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u3100-\u312f\u31a0-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff01-\uff65\U00020000-\U0003134f]"
)


@dataclass(frozen=True)
class Edit:
    """Change the fact (subject, relation, old) into (subject, relation, new).

    Args:
        prompt: a text whose continuation is the object, with ``{}`` where the subject stands
            (``"{} is the capital of"``). A prompt with the subject already filled in, once, is taken as well. Spaces at
            its end are dropped: what belongs between prompt and object is put there (see ``object_text``).
        subject: the entity that the fact is about, without spaces around it.
        old: the object that the model knows; only erasing editors and metrics need it. Empty or None: not given.
        new: the object that it shall know.

    Raises:
        ValueError: one line, if the subject or the new object is empty, the prompt has no place for the subject or has
            it inside a longer word, or the two objects are the same.
    """

    prompt: str
    subject: str
    old: str
    new: str

    def __post_init__(self) -> None:
        if self.old is None:
            object.__setattr__(self, "old", "")
        for name in ("prompt", "subject", "old", "new"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ValueError(f"the {name} of an edit is text, not {value!r}")
        for name in ("subject", "new"):
            if not getattr(self, name).strip():
                raise ValueError(f"an edit with prompt {self.prompt!r} has an empty {name}")
        object.__setattr__(self, "subject", self.subject.strip())
        object.__setattr__(self, "prompt", self.prompt.rstrip())
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
        if inside_word(self.text, *self.span):
            raise ValueError(f"the subject {self.subject!r} is part of a longer word in {self.text!r}")

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace(SLOT, self.subject)

    @property
    def span(self) -> tuple[int, int]:
        """Where the subject stands in ``text``: its first character and the one after its last."""
        start = self.prompt.index(SLOT)
        return start, start + len(self.subject)


def unspaced(text: str) -> bool:
    """Whether a text ends in a script that puts no space between words."""
    return bool(_UNSPACED.match(text[-1:]))


def inside_word(text: str, start: int, end: int) -> bool:
    """Whether a letter or a digit stands right before or after the characters [start, end), without a word's end."""

    def joined(a: str, b: str) -> bool:
        return a.isalnum() and b.isalnum() and not unspaced(a) and not unspaced(b)

    return joined(text[max(0, start - 1) : start], text[start]) or joined(text[end - 1], text[end : end + 1])


def object_text(prompt: str, name: str) -> str:
    """An object as it follows a prompt: after one space, or none if the prompt's last word is of an unspaced script."""
    return name.strip() if unspaced(prompt.rstrip()) else " " + name.strip()


def object_ids(tokenizer: Any, prompt: str, name: str) -> list[int]:
    """Token ids of an object that follows a prompt, without BOS.

    Raises:
        ValueError: if the tokenizer does not know a word of it.
    """
    ids = continuation_ids(tokenizer, object_text(prompt, name))
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
