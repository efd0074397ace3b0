"""MQuAKE (Zhong et al., EMNLP 2023): questions of two to four hops whose answer an edit changes."""

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decathlon.errors import DataError
from decathlon.files import raw_file
from decathlon.tasks.kele.cases import Case, Hop, Loaded, Question, refusal
from decathlon.tasks.kele.edit import Edit

ORIGIN = "https://raw.githubusercontent.com/princeton-nlp/MQuAKE/main"
FILES = {
    "cf-3k": "datasets/MQuAKE-CF-3k.json",
    "cf-3k-v2": "datasets/MQuAKE-CF-3k-v2.json",
    "cf": "datasets/MQuAKE-CF.json",
    "t": "datasets/MQuAKE-T.json",
}
PROMPTS = {
    "few_shot": "multihop-prompts.txt",
    "cot": "multihop-cot-prompts.txt",
    "relations": "rel-prompts.json",
}
HOP_COUNTS = {"cf-3k": {2: 1000, 3: 1000, 4: 1000}}


def prompt_file(root: str | Path, kind: str) -> Path:
    """The few-shot (``few_shot``), chain-of-thought (``cot``) or per-relation (``relations``) demonstrations."""
    name = PROMPTS[kind]
    return raw_file(root, [name], f"{ORIGIN}/prompts/{name}")


def read_json(path: Path) -> list[Mapping[str, Any]]:
    """A JSON list of records, possibly gzipped.

    Raises:
        DataError: for a file that is not one.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            records = json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is not a readable JSON file ({error})") from error
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is not a list of records")
    return records


def load(root: str | Path, version: str = "cf-3k") -> Loaded:
    """All usable cases of one version, in the order of the file.

    Args:
        root: the data folder.
        version: ``cf-3k`` (3,000 counterfactual cases, the paper's MQuAKE-3K), ``cf-3k-v2``, ``cf`` or ``t``.

    Raises:
        DataError: if the file is missing, a record is malformed, or the chain of a case does not end in its answer.
    """
    if version not in FILES:
        raise ValueError(f"version={version} is none of MQuAKE's; choose {', '.join(FILES)}")
    name = Path(FILES[version]).name
    path = raw_file(root, [name, name + ".gz"], f"{ORIGIN}/{FILES[version]}")
    cases, refused = [], Counter[str]()
    for index, record in enumerate(read_json(path)):
        case = _case(record, index, path)
        if isinstance(case, str):
            refused[case] += 1
        else:
            cases.append(case)
    counts = Counter(case.hops for case in cases)
    expected = HOP_COUNTS.get(version)
    if expected is not None and not refused and dict(counts) != expected:
        raise DataError(f"{path} has {dict(sorted(counts.items()))} cases per number of hops, expected {expected}")
    if len({case.id for case in cases}) != len(cases):
        raise DataError(f"{path} has the same case_id twice")
    return Loaded(cases, refused)


def _case(record: Mapping[str, Any], index: int, path: Path) -> Case | str:
    """The case of a record, or why it is none."""
    try:
        requests = [
            (rewrite["prompt"], rewrite["subject"], rewrite["target_true"]["str"], rewrite["target_new"]["str"])
            for rewrite in record["requested_rewrite"]
        ]
        for request in requests:
            reason = refusal(*request)
            if reason is not None:
                return reason
        edits = tuple(Edit(prompt=p, subject=s, old=old, new=new) for p, s, old, new in requests)
        answers = (record["new_answer"], *record["new_answer_alias"])
        before = (record["answer"], *record["answer_alias"])
        relations = [triple[1] for triple in record["orig"]["triples"]]
        hops, new_hops = record["single_hops"], record["new_single_hops"]
        chain = tuple(
            Hop(hop["question"], relation, (hop["answer"], *hop["answer_alias"]))
            for hop, relation in zip(hops, relations)
        )
        if not edits or not hops or len(hops) != len(relations) or not record["questions"]:
            raise DataError(f"{path}: record {index} has no edits, no questions or an incomplete chain")
        if new_hops[-1]["answer"] != record["new_answer"] or hops[-1]["answer"] != record["answer"]:
            raise DataError(f"{path}: record {index}: the last hop does not end in the answer")
        questions = tuple(Question(text, answers, before) for text in record["questions"])
        asked = _edit_questions(record["requested_rewrite"], [*hops, *new_hops])
        return Case(
            str(record["case_id"]), edits, questions=questions, hops=len(hops), chain=chain, edit_questions=asked
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{path}: record {index} is malformed ({type(error).__name__}: {error})") from error


def _edit_questions(rewrites: Sequence[Mapping[str, Any]], hops: Sequence[Mapping[str, Any]]) -> tuple[Question, ...]:
    """The edits as questions, with the aliases of the hops that ask the same; none if a rewrite has no question."""
    if not all(rewrite.get("question") for rewrite in rewrites):
        return ()
    aliases = {(hop["question"], hop["answer"]): tuple(hop["answer_alias"]) for hop in hops}

    def accepted(rewrite: Mapping[str, Any], which: str) -> tuple[str, ...]:
        answer = rewrite[which]["str"]
        return (answer, *aliases.get((rewrite["question"], answer), ()))

    return tuple(Question(r["question"], accepted(r, "target_new"), accepted(r, "target_true")) for r in rewrites)
