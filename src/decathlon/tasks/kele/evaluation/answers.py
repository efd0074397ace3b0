"""The evaluation of a method that answers questions and changes no weight."""

from collections.abc import Callable, Sequence
from typing import Any

from decathlon.tasks.kele.cases import Case
from decathlon.tasks.kele.evaluation.metrics import case_metrics, judged


def evaluate_answers(case: Case, answers: Callable[[Sequence[str]], Sequence[tuple[str, str]]]) -> dict[str, Any]:
    """The row of one case, as of ``evaluation.evaluate``, with what such a method has: answers to questions.

    The multi-hop questions and, where the data has them, the edits' own questions are asked in one call. Probabilities,
    ranks, paraphrases and neighbours are absent: the weights are the unedited model's and say nothing of the method.

    Args:
        answers: from questions to (answer, how it came about).
    """
    asked = [*case.edit_questions, *case.questions]
    replies = [
        {**judged(said.strip(), question.new, question.old), "conversation": conversation}
        for question, (said, conversation) in zip(asked, answers([question.text for question in asked]))
    ]
    edits: list[dict[str, Any]] = [{"prompt": edit.text, "old": edit.old, "new": edit.new} for edit in case.edits]
    count = len(case.edit_questions)
    for entry, question, reply in zip(edits, case.edit_questions, replies[:count]):
        entry |= {"question": question.text, **reply}
    questions = [
        {"text": question.text, "new": question.new[0], "old": question.old[0] if question.old else "", **reply}
        for question, reply in zip(case.questions, replies[count:])
    ]
    row: dict[str, Any] = {"id": case.id, "hops": case.hops, "edits": edits, "questions": questions}
    row["metrics"] = case_metrics(row)
    return row
