"""The token rows that an edit is computed on: its prompt behind several contexts, the targets, the subject's place."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from decathlon.errors import DataError
from decathlon.files import cached, write_text
from decathlon.language.fingerprint import fingerprint, tokenizer_fingerprint
from decathlon.language.generation import sample
from decathlon.language.tokens import Bos, encode_with_offsets, start_ids
from decathlon.storage import digest
from decathlon.tasks.kele.edit import Edit, check_known, object_ids, unspaced

ESSENCE = "{} is a"


@dataclass(frozen=True)
class Prompted:
    """One edit as token ids.

    attributes:
        prompts: the prompt behind each context; the first context is empty.
        subjects: for each, the index of the subject's last token.
        essence, essence_subject: the same for the text "{subject} is a".
        new, old: token ids of the objects; ``old`` is empty if the edit names none.
        shared: how many first tokens the two objects have in common, or None if one begins with the other.
    """

    edit: Edit
    prompts: list[list[int]]
    subjects: list[int]
    essence: list[int]
    essence_subject: int
    new: list[int]
    old: list[int]
    shared: int | None


def last_token(offsets: Sequence[tuple[int, int]], end: int) -> int:
    """Index of the last token that holds characters before ``end``."""
    return max(index for index, (first, past) in enumerate(offsets) if past > first and first < end)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Length of the common beginning of two token sequences; None if one of them is all of it."""
    for index, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return index
    return None


def tokenise(tokenizer: Any, edits: Sequence[Edit], contexts: Sequence[str], bos: Bos) -> list[Prompted]:
    """Token rows of each edit.

    Args:
        contexts: texts put before the prompt verbatim; the first one is "".

    Raises:
        ValueError: if an edit has a word that the tokenizer does not know.
    """
    texts: list[str] = []
    ends: list[int] = []
    for edit in edits:
        check_known(tokenizer, tokenizer(edit.text, add_special_tokens=False)["input_ids"], edit.text)
        for context in contexts:
            texts.append(context + edit.text)
            ends.append(len(context) + edit.span[1])
        texts.append(ESSENCE.format(edit.subject))
        ends.append(len(edit.subject))
    rows = encode_with_offsets(tokenizer, texts, bos)
    places = [last_token(spans, end) for (_, spans), end in zip(rows, ends)]
    out = []
    width = len(contexts) + 1
    for index, edit in enumerate(edits):
        block = slice(index * width, (index + 1) * width)
        ids, where = [ids for ids, _ in rows[block]], places[block]
        new = object_ids(tokenizer, edit.text, edit.new)
        old = object_ids(tokenizer, edit.text, edit.old) if edit.old.strip() else []
        shared = common_prefix(new, old) if old else None
        out.append(Prompted(edit, ids[:-1], where[:-1], ids[-1], where[-1], new, old, shared))
    return out


def sample_contexts(
    model: Any, tokenizer: Any, plan: Sequence[tuple[int, int]], seed: int, cache: Path | None = None
) -> list[str]:
    """Contexts that the model writes itself: the empty one, then for each (length, count) so many texts of that length.

    Sampled with top-k 5 from the beginning of a text, each ended by ". " (or the ideographic full stop, without a
    space). Kept in ``cache`` under the contents of model and tokenizer.
    """

    def make() -> list[str]:
        first = start_ids(tokenizer)
        generator = torch.Generator().manual_seed(seed)
        texts = [""]
        for length, count in plan:
            # A tokenizer without any start token: begin with some word of the vocabulary.
            words = torch.randint(0, len(tokenizer), (count,), generator=generator).tolist()
            starts = [first or [word] for word in words]
            for start, made in zip(starts, sample(model, starts, length, top_k=5, seed=seed + length)):
                ids = made if first else [*start, *made]
                text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                joined = " ".join(text.split())
                texts.append(joined + ("\u3002" if unspaced(joined) else ". "))
        return texts

    if cache is None:
        return make()
    key = digest(fingerprint(model), tokenizer_fingerprint(tokenizer), seed, plan)
    return cached(cache / f"contexts-{key}.json", make, _save, _load)


def _save(texts: list[str], path: Path) -> None:
    write_text(path, json.dumps(texts, ensure_ascii=False))


def _load(path: Path) -> list[str]:
    try:
        return [str(text) for text in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it, it will be made again") from error
