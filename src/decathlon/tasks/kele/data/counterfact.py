"""CounterFact (Meng et al., NeurIPS 2022): single facts, their paraphrases and their neighbours."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decathlon.errors import DataError
from decathlon.files import raw_file
from decathlon.tasks.kele.cases import Case, Loaded, Probe, refusal
from decathlon.tasks.kele.data.mquake import read_json
from decathlon.tasks.kele.edit import Edit

URL = "https://rome.baulab.info/data/dsets/counterfact.json"


def load(root: str | Path) -> Loaded:
    """All usable records, in the order of the file.

    Two forms are read: the original one (2 paraphrase and 10 neighbourhood prompts a record) and EasyEdit's flat one
    (one of each, the subject filled into the prompt).

    Raises:
        DataError: if the file is missing or a record is malformed.
    """
    path = raw_file(root, ["counterfact.json", "counterfact.json.gz"], URL)
    records = read_json(path)
    cases, refused = [], Counter[str]()
    for index, record in enumerate(records):
        try:
            case = _full(record) if "requested_rewrite" in record else _flat(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: record {index} is malformed ({type(error).__name__}: {error})") from error
        if isinstance(case, str):
            refused[case] += 1
        else:
            cases.append(case)
    if len({case.id for case in cases}) != len(cases):
        raise DataError(f"{path} has the same case_id twice")
    return Loaded(cases, refused)


def _full(record: Mapping[str, Any]) -> Case | str:
    rewrite = record["requested_rewrite"]
    old, new = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
    reason = refusal(rewrite["prompt"], rewrite["subject"], old, new)
    if reason is not None:
        return reason
    return Case(
        str(record["case_id"]),
        (Edit(prompt=rewrite["prompt"], subject=rewrite["subject"], old=old, new=new),),
        paraphrases=tuple(Probe(prompt, old, new) for prompt in record["paraphrase_prompts"]),
        neighbours=tuple(Probe(prompt, old, new) for prompt in record["neighborhood_prompts"]),
    )


def _flat(record: Mapping[str, Any]) -> Case | str:
    subject, old, new = record["subject"], record["ground_truth"], record["target_new"]
    prompt = record["prompt"]
    template = prompt.replace(subject, "{}") if prompt.count(subject) == 1 else prompt
    reason = refusal(template, subject, old, new)
    if reason is not None:
        return reason
    return Case(
        str(record["case_id"]),
        (Edit(prompt=template, subject=subject, old=old, new=new),),
        paraphrases=(Probe(record["rephrase_prompt"], old, new),),
        neighbours=(Probe(record["locality_prompt"], record["locality_ground_truth"], new),),
    )
