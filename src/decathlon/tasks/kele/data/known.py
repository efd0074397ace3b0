"""The filter "facts this model knows": editing what a model never knew says nothing about erasing it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decathlon.errors import DataError
from decathlon.language import Bos, generate, score
from decathlon.tasks.kele.cases import Case, edit_probe
from decathlon.tasks.kele.edit import object_text
from decathlon.tasks.kele.evaluation.metrics import matches
from decathlon.tasks.kele.evaluation.protocol import Protocol

RULES = ("answer", "likelier", "hops", "questions")


def known(
    model: Any,
    tokenizer: Any,
    cases: Sequence[Case],
    rule: str,
    relation_prompts: Mapping[str, str] | None = None,
    protocol: Protocol | None = None,
    bos: Bos = "auto",
) -> list[str]:
    """The ids of the cases whose facts ``model`` knows before any edit, in order.

    Rules:
        ``answer``: the old answer of every edit is the arg-max, token by token, after its prompt, without examples.
        ``likelier``: the old answer of every edit is likelier than the new one.
        ``hops``: every single hop of the chain is answered right after MQuAKE's eight demonstrations of its relation.
        ``questions``: ``hops``, and at least one of the multi-hop questions gets the old answer under ``protocol``.

    Args:
        bos: as the edited model will be asked; that of ``protocol`` is its own.
    """
    if rule in ("answer", "likelier"):
        return _known_edits(model, tokenizer, cases, rule, bos)
    if relation_prompts is None:
        raise ValueError(f"rule={rule} needs the demonstrations of each relation")
    kept = _known_hops(model, tokenizer, cases, relation_prompts, bos)
    if rule == "questions":
        if protocol is None:
            raise ValueError("rule=questions needs a protocol")
        kept = _known_questions(model, tokenizer, kept, protocol)
    return [case.id for case in kept]


def _known_edits(model: Any, tokenizer: Any, cases: Sequence[Case], rule: str, bos: Bos) -> list[str]:
    probes = [(case.id, edit_probe(edit)) for case in cases for edit in case.edits]
    prompts = [probe.prompt for _, probe in probes]
    answers = [(object_text(probe.prompt, probe.old), object_text(probe.prompt, probe.new)) for _, probe in probes]
    old = score(model, tokenizer, prompts, [old for old, _ in answers], bos=bos)
    if rule == "answer":
        right = old.greedy
    else:
        right = old.mean > score(model, tokenizer, prompts, [new for _, new in answers], bos=bos).mean
    missed = {case_id for (case_id, _), ok in zip(probes, right.tolist()) if not ok}
    return [case.id for case in cases if case.id not in missed]


def _known_hops(
    model: Any, tokenizer: Any, cases: Sequence[Case], relation_prompts: Mapping[str, str], bos: Bos
) -> list[Case]:
    hops = {(hop.relation, hop.question): hop for case in cases for hop in case.chain}
    missing = sorted({relation for relation, _ in hops} - relation_prompts.keys())
    if missing:
        raise DataError(f"rel-prompts.json has no demonstrations for {', '.join(missing)}")
    prompts = [f"{relation_prompts[relation].rstrip()}\nQ: {question} A:" for relation, question in hops]
    said = generate(model, tokenizer, prompts, 20, ["\n", "Q:"], bos=bos)
    right = {key for (key, hop), text in zip(hops.items(), said) if matches(text, hop.answers)}
    return [case for case in cases if all((hop.relation, hop.question) in right for hop in case.chain)]


def _known_questions(model: Any, tokenizer: Any, cases: Sequence[Case], protocol: Protocol) -> list[Case]:
    texts = [question.text for case in cases for question in case.questions]
    said = iter(protocol.answers(model, tokenizer, texts))
    right = [[matches(next(said), question.old) for question in case.questions] for case in cases]
    return [case for case, hits in zip(cases, right) if any(hits)]


def save_ids(ids: Sequence[str], note: Mapping[str, Any], path: Path) -> None:
    """Write the ids with a note of how they were found."""
    path.write_text(json.dumps({**note, "kept": len(ids), "ids": list(ids)}, indent=1), encoding="utf-8")


def load_ids(path: Path) -> list[str]:
    """Ids that ``save_ids`` wrote.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["ids"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it, it will be made again") from error
