"""What one edit request is to be judged by: the same shape for every dataset."""

from collections import Counter
from dataclasses import dataclass

from decathlon.tasks.kele.edit import Edit


@dataclass(frozen=True)
class Probe:
    """A prompt that ends where an answer begins, with the answer before (``old``) and after (``new``) the edit."""

    prompt: str
    old: str
    new: str


@dataclass(frozen=True)
class Fact:
    """A prompt and the one answer that it should have, before and after."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Question:
    """A question whose answer follows from several facts.

    ``new`` and ``old`` list the accepted answers after and before the edit, the canonical one first.
    """

    text: str
    new: tuple[str, ...]
    old: tuple[str, ...]


@dataclass(frozen=True)
class Hop:
    """One single-hop fact of a question's chain before the edit: a question with its accepted answers."""

    question: str
    relation: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One unit of evaluation: its edits are applied together, everything else is asked, and the edits are undone.

    paraphrases: other wordings of the edited facts. neighbours: other subjects, for which ``old`` should stay.
    same_subject: other facts about the edited subject, which should stay. questions: what follows from the edits.
    hops: facts in the chain of each question, 0 without questions. chain: the facts of the chain before the edit.
    edit_questions: each edit as a question, in their order, or none at all.
    """

    id: str
    edits: tuple[Edit, ...]
    paraphrases: tuple[Probe, ...] = ()
    neighbours: tuple[Probe, ...] = ()
    same_subject: tuple[Fact, ...] = ()
    questions: tuple[Question, ...] = ()
    hops: int = 0
    chain: tuple[Hop, ...] = ()
    edit_questions: tuple[Question, ...] = ()


def edit_probe(edit: Edit) -> Probe:
    """The edit's own prompt as a probe."""
    return Probe(edit.text, edit.old, edit.new)


def refusal(prompt: str, subject: str, old: str, new: str) -> str | None:
    """Why a record is no edit request at all, or None if it is one."""
    if prompt.count("{}") != 1:
        return "no single slot for the subject in the prompt"
    if not subject.strip() or not old.strip() or not new.strip():
        return "empty subject or answer"
    if prompt.replace("{}", subject).count(subject) != 1:
        return "subject not exactly once in the filled prompt"
    if old.strip() == new.strip():
        return "old and new answer are the same"
    return None


@dataclass(frozen=True)
class Loaded:
    """The usable cases of a file, in its order, and how many records were left out for which reason."""

    cases: list[Case]
    refused: Counter[str]
