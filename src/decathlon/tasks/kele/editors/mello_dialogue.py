"""The conversation by which MeLLo answers a question: subquestion, tentative answer, fact, verdict, and so on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from decathlon.tasks.kele.edit import Edit, object_text

DEMONSTRATIONS = Path(__file__).with_name("mello.txt").read_text(encoding="utf-8")
SUBQUESTION, TENTATIVE, FACT = "Subquestion:", "Tentative answer:", "Retrieved fact:"
VERDICT, ANSWER, FINAL = "Contradiction:", "Answer:", "Final answer:"
_STEP_ENDS, _VERDICT_ENDS, _VERDICT_TOKENS = (FACT, "\n\n", "\nQuestion:"), ("\n",), 4

Say = Callable[[Sequence[str], Sequence[str], int], Sequence[str]]
"""From texts to go on with, the strings that end a continuation, and the most tokens it has, to continuations."""
Find = Callable[[Sequence[str]], Sequence[Edit | None]]
"""From subquestions to the edited facts that are closest to them; None where there is nothing to find."""


def sentence(edit: Edit) -> str:
    """An edited fact as it is remembered and shown: its prompt with the new object."""
    return f"{edit.text}{object_text(edit.text, edit.new)}."


@dataclass
class Dialogue:
    """One question on its way to an answer.

    attributes:
        text: everything said so far.
        answer: the final answer; empty as long as there is none, and for good if the conversation ends without one.
        open: whether it goes on.
        subquestion, tentative: of the present hop.
    """

    question: str
    text: str = field(init=False)
    answer: str = ""
    open: bool = True
    subquestion: str = ""
    tentative: str = ""

    def __post_init__(self) -> None:
        # A question has one hop at least, so the first subquestion is asked for.
        self.text = f"Question: {self.question}\n{SUBQUESTION}"

    def step(self, said: str) -> None:
        """Take the next subquestion with its tentative answer, or the final answer; anything else ends it."""
        begun, _, last = self.text.rpartition("\n")
        lines = [line.strip() for line in (last + said).splitlines()]
        found = {
            label: next((line.removeprefix(label).strip() for line in lines if line.startswith(label)), "")
            for label in (SUBQUESTION, TENTATIVE, FINAL)
        }
        first = next((line for line in lines if line), "")
        if first.startswith(SUBQUESTION) and found[SUBQUESTION] and found[TENTATIVE]:
            self.subquestion, self.tentative = found[SUBQUESTION], found[TENTATIVE]
            self.text = f"{begun}\n{SUBQUESTION} {self.subquestion}\n{TENTATIVE} {self.tentative}\n"
            return
        self.text += said
        self.open = False
        if first.startswith(FINAL):
            self.answer = found[FINAL]

    def show(self, fact: Edit | None) -> None:
        """Put the retrieved fact into the text and ask whether it contradicts the tentative answer."""
        if fact is not None:
            self.text += f"{FACT} {sentence(fact)}\n{VERDICT}"

    def judge(self, fact: Edit | None, verdict: str) -> None:
        """Go on with the fact's object if the model says that it contradicts, else with the tentative answer."""
        contradicts = fact is not None and verdict.strip().casefold().startswith("yes")
        if fact is not None:
            self.text += f" {'yes' if contradicts else 'no'}\n"
        kept = fact.new.strip() if fact is not None and contradicts else self.tentative
        self.text += f"{ANSWER} {kept}\n"


def converse(questions: Sequence[str], say: Say, find: Find, max_hops: int, tokens: int) -> list[Dialogue]:
    """Answer all questions side by side: one call of ``say`` for the steps of a hop and one for its verdicts.

    A conversation ends with a final answer, when the model leaves the form, or when it asks a subquestion after
    ``max_hops`` of them. In the last two cases there is no answer.

    Args:
        tokens: of a subquestion with its tentative answer, at most.
    """
    talks = [Dialogue(question) for question in questions]
    for hop in range(max_hops + 1):
        live = [talk for talk in talks if talk.open]
        if not live:
            break
        for talk, said in zip(live, say([talk.text for talk in live], _STEP_ENDS, tokens)):
            talk.step(said)
        live = [talk for talk in live if talk.open]
        if hop == max_hops:
            for talk in live:
                talk.open = False
            break
        facts = find([talk.subquestion for talk in live]) if live else []
        for talk, fact in zip(live, facts):
            talk.show(fact)
        asked = [talk.text for talk, fact in zip(live, facts) if fact is not None]
        verdicts = iter(say(asked, _VERDICT_ENDS, _VERDICT_TOKENS) if asked else [])
        for talk, fact in zip(live, facts):
            talk.judge(fact, next(verdicts) if fact is not None else "")
    return talks
