"""A user's own edits: a JSON list (or a file of JSON lines) of plain records."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decathlon.errors import DataError
from decathlon.files import raw_file
from decathlon.tasks.kele.cases import Case, Loaded, Probe, Question
from decathlon.tasks.kele.edit import Edit

KEYS = ("prompt", "subject", "new", "old", "paraphrases", "neighbours", "questions", "id")


def load(root: str | Path, file: str) -> Loaded:
    """All cases of a file, in its order; one edit each.

    A record has ``prompt`` (with ``{}`` for the subject), ``subject`` and ``new``, and optionally ``old``;
    ``paraphrases``: prompts for the same fact, with the subject filled in; ``neighbours``: prompts about other
    subjects, each a text (the old object is its answer) or ``{prompt, answer}``; ``questions``: ``{question, new,
    old}``, where ``new`` and ``old`` are an answer or a list of accepted ones; ``id``.

    Args:
        root: the data folder. file: from the current folder, or in the data folder.

    Raises:
        DataError: in one line, the first record that is wrong, and how many are.
    """
    here = Path(file).expanduser()
    path = here if here.is_file() else raw_file(root, [file])
    cases, faults = [], []
    for number, record in enumerate(_records(path), start=1):
        try:
            cases.append(_case(record, number))
        except ValueError as error:
            faults.append(f"record {number}: {error}")
    if faults:
        more = f" ({len(faults)} of {len(faults) + len(cases)} records are wrong)" if len(faults) > 1 else ""
        raise DataError(f"{path}: {faults[0]}{more}")
    ids = Counter(case.id for case in cases)
    twice = next((name for name, count in ids.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path} has the id {twice} twice")
    return Loaded(cases, Counter())


def _records(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is neither a JSON list nor lines of JSON ({error})") from error
    if not records:
        raise DataError(f"{path} holds no record")
    return records


def _case(record: Any, number: int) -> Case:
    if not isinstance(record, Mapping):
        raise ValueError(f"{type(record).__name__} is no mapping of {', '.join(KEYS)}")
    stray = next((key for key in record if key not in KEYS), None)
    if stray is not None:
        raise ValueError(f"{stray} is no key of an edit; choose {', '.join(KEYS)}")
    absent = next((key for key in ("prompt", "subject", "new") if key not in record), None)
    if absent is not None:
        raise ValueError(f"it has no {absent}")
    edit = Edit(record["prompt"], record["subject"], record.get("old") or "", record["new"])
    return Case(
        str(record.get("id", number)),
        (edit,),
        paraphrases=tuple(
            Probe(_text(one, "a paraphrase"), edit.old, edit.new) for one in _list(record, "paraphrases")
        ),
        neighbours=tuple(_neighbour(one, edit) for one in _list(record, "neighbours")),
        questions=tuple(_question(one) for one in _list(record, "questions")),
    )


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key) or []
    if not isinstance(value, list):
        raise ValueError(f"{key} is a list, not {value!r}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is text, not {value!r}")
    return value.rstrip()


def _neighbour(value: Any, edit: Edit) -> Probe:
    if isinstance(value, Mapping):
        if set(value) != {"prompt", "answer"}:
            raise ValueError(f"a neighbour has a prompt and an answer, not {', '.join(map(str, value)) or 'nothing'}")
        return Probe(_text(value["prompt"], "a neighbour's prompt"), _text(value["answer"], "an answer"), edit.new)
    if not edit.old:
        raise ValueError(f"the neighbour {value!r} needs an answer, as {{prompt, answer}}: the edit has no old object")
    return Probe(_text(value, "a neighbour"), edit.old, edit.new)


def _question(value: Any) -> Question:
    if not isinstance(value, Mapping) or not {"question", "new"} <= set(value) <= {"question", "new", "old"}:
        raise ValueError(f"a question is {{question, new, old}}, where old may be left out, not {value!r}")
    old = _answers(value["old"]) if value.get("old") else ()
    return Question(_text(value["question"], "a question"), _answers(value["new"]), old)


def _answers(value: Any) -> tuple[str, ...]:
    answers = tuple(_text(one, "an answer") for one in (value if isinstance(value, list) else [value]))
    if not answers:
        raise ValueError("a question has no accepted answer")
    return answers
