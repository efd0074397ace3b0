"""The prompts of CoRA and of its baselines, and their tokens.

A prompt may have slots for things that are no text: the user's and the item's tokens. They stand in the token ids as
``USER`` and ``ITEM``, negative numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decathlon.language.tokens import Bos, continuation_ids, encode

USER, ITEM = -1, -2
NOBODY = "unkow"  # what an empty history is called (sic)
KINDS = ("text", "identity", "soft")
_ANSWER = 'Answer with "Yes" or "No". {newline}#Answer:'
TEMPLATES: dict[str, str] = {
    # CoRA, TALLRec, ICL.
    "text": "#Question: A user has given high ratings to the following {plural}: {history}. Leverage the information "
    "to predict whether the user would enjoy the {singular} titled {target}? " + _ANSWER,
    # CoLLM, PersonPrompt, BinLLM.
    "identity": "#Question: A user has given high ratings to the following {plural}: {history}. Additionally, we have "
    "information about the user's preferences encoded in the feature {user}. Using all available information, make a "
    "prediction about whether the user would enjoy the {singular} titled {target} with the feature {item}? " + _ANSWER,
    # Prompt4NR.
    "soft": "#Question: {user} {history} [SEP] {item} {target} [SEP] Using all available information, make a "
    "prediction about whether the user would enjoy the {singular}? " + _ANSWER,
}


@dataclass(frozen=True)
class Template:
    """How a row becomes a text.

    Args:
        kind: ``text``, ``identity`` or ``soft``. words: what items are called, plural and singular.
        history: how many of the latest titles are shown.
        newline: ``literal`` (the published files: a backslash and an n), or ``real``.

    Raises:
        ValueError: one line, for an unknown kind or newline, or a history that is no number of titles.
    """

    kind: str = "text"
    words: tuple[str, str] = ("movies", "movie")
    history: int = 10
    newline: str = "literal"

    def __post_init__(self) -> None:
        if self.kind not in TEMPLATES:
            raise ValueError(f"prompt={self.kind} is unknown; choose {', '.join(TEMPLATES)}")
        if self.newline not in ("literal", "real"):
            raise ValueError(f"newline={self.newline} is unknown; choose literal or real")
        if self.history < 1:
            raise ValueError(f"history={self.history} must be at least 1 title")

    def text(self, liked: Sequence[str], target: str, user: str = "{user}", item: str = "{item}") -> str:
        """The prompt of a row.

        Args:
            liked: titles of the history, oldest first. target: the title of the item in question.
            user, item: what stands in the slots.
        """
        shown = [title.strip() for title in liked if title.strip()][-self.history :]
        titles = ", ".join(f'"{title}"' for title in shown) if shown else NOBODY
        newline = "\\n" if self.newline == "literal" else "\n"
        return TEMPLATES[self.kind].format(
            plural=self.words[0], singular=self.words[1], history=titles, target=f'"{target.strip()}"', user=user,
            item=item, newline=newline,
        )  # fmt: skip


_MARKS = {"\x00": USER, "\x01": ITEM}


def tokenised(
    tokenizer: Any, template: Template, rows: Sequence[tuple[Sequence[str], str]], *, slots: int = 0,
    codes: Sequence[tuple[str, str]] | None = None, longest: int = 1024, bos: Bos = "auto",
) -> list[list[int]]:  # fmt: skip
    """Token ids of prompts, BOS first, the latest ``longest`` of them.

    Args:
        rows: history titles and target title of each row.
        slots: how many tokens each slot has; 0: ``codes`` stand in the slots as text.
        codes: user and item of each row as texts.
    """
    if template.kind == "text":
        return [ids[-longest:] for ids in encode(tokenizer, [template.text(*row) for row in rows], bos)]
    if slots == 0:
        given = codes or [("", "")] * len(rows)
        texts = [template.text(*row, user=u, item=i) for row, (u, i) in zip(rows, given, strict=True)]
        return [ids[-longest:] for ids in encode(tokenizer, texts, bos)]
    known: dict[str, list[int]] = {}
    made = []
    for row in rows:
        pieces = _pieces(template.text(*row, user="\x00", item="\x01"))
        ids = encode(tokenizer, [pieces[0]], bos)[0]
        for piece in pieces[1:]:
            if piece in _MARKS:
                ids = ids + [_MARKS[piece]] * slots
            elif piece.strip():
                if piece not in known:
                    known[piece] = continuation_ids(tokenizer, piece)
                ids = ids + known[piece]
        made.append(ids[-longest:])
    return made


def _pieces(text: str) -> list[str]:
    pieces = [""]
    for character in text:
        if character in _MARKS:
            pieces += [character, ""]
        else:
            pieces[-1] += character
    return pieces


def answers(tokenizer: Any) -> tuple[int, int]:
    """Ids of the first tokens of "Yes" and "No" as they follow the prompt's colon.

    Byte-level tokenizers have "Yes" and " Yes"; after "Answer:" comes the latter.

    Raises:
        ValueError: one line, if the tokenizer does not tell them apart.
    """
    yes, no = (continuation_ids(tokenizer, word)[0] for word in (" Yes", " No"))
    if yes == no:
        raise ValueError("this tokenizer's answers Yes and No begin with the same token: they cannot be told apart")
    return yes, no


def check_template(options: Mapping[str, Any]) -> None:
    """Raise a one-line ValueError for template options that no template has."""
    Template(**options)
