"""Text to token ids: document separators, continuations, padding, batches of similar length."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Bos = Literal["auto", "off"]
_SEPARATOR = "<|endoftext|>"
_ANCHOR = ":"
_ANCHORS = ("a", ":", "1", "the")  # texts of which a tokenizer makes at least one token that is not a special one
_SPACE_MARK = "▁"


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer itself puts before and after every text: BOS or ``[CLS]``, EOS or ``[SEP]``, or nothing."""
    for anchor in _ANCHORS:
        made = tokenizer(anchor, add_special_tokens=True, return_special_tokens_mask=True)
        ids, special = made["input_ids"], made["special_tokens_mask"]
        own = [index for index, mark in enumerate(special) if not mark]
        if own:
            return list(ids[: own[0]]), list(ids[own[-1] + 1 :])
    return list(tokenizer("", add_special_tokens=True)["input_ids"]), []


def separator_id(tokenizer: Any) -> int | None:
    """The token that ``bos="auto"`` puts before a text, or None if the tokenizer puts one there itself or has none.

    The first position of a sequence is an attention sink: whatever token stands there gets the same huge activation.
    Tokenizers of the GPT-2 kind leave that position to the first word of the text. ``<|endoftext|>``, which separates
    documents in training, is preferred; otherwise the tokenizer's own BOS token.
    """
    if frame(tokenizer)[0]:
        return None
    vocabulary = tokenizer.get_vocab()
    if _SEPARATOR in vocabulary:
        return int(vocabulary[_SEPARATOR])
    return tokenizer.bos_token_id


def encode(tokenizer: Any, texts: Sequence[str], bos: Bos = "auto") -> list[list[int]]:
    """Token ids of each text, with the document separator before it (``bos="auto"``) or as the tokenizer has it.

    What some tokenizers append (an end-of-sequence token, ``[SEP]``) is left out: every text here is to be continued.

    Raises:
        ValueError: if a text has no tokens at all.
    """
    return [ids for ids, _ in _encode(tokenizer, texts, bos, offsets=False)]


def encode_with_offsets(
    tokenizer: Any, texts: Sequence[str], bos: Bos = "auto"
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """``encode``, and for each token the characters [start, end) of the text it stands for; (0, 0) for a special one.

    Raises:
        ValueError: if a text has no tokens, or the tokenizer is a slow one, which knows no offsets.
    """
    if not getattr(tokenizer, "is_fast", True):
        raise ValueError(f"{type(tokenizer).__name__} knows no character offsets; load a fast tokenizer")
    return _encode(tokenizer, texts, bos, offsets=True)


def _encode(
    tokenizer: Any, texts: Sequence[str], bos: Bos, offsets: bool
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    if not texts:
        return []
    if bos not in ("auto", "off"):
        raise ValueError(f"bos={bos} is unknown; choose auto or off")
    first = separator_id(tokenizer) if bos == "auto" else None
    appended = frame(tokenizer)[1]
    made = tokenizer(list(texts), add_special_tokens=True, return_offsets_mapping=offsets)
    out = []
    for index, text in enumerate(texts):
        ids = list(made["input_ids"][index])
        spans = [tuple(span) for span in made["offset_mapping"][index]] if offsets else [(0, 0)] * len(ids)
        if appended and ids[-len(appended) :] == appended:
            del ids[-len(appended) :], spans[-len(appended) :]
        if first is not None and (not ids or ids[0] != first):
            ids.insert(0, first)
            spans.insert(0, (0, 0))
        if not ids:
            raise ValueError(f"{text!r} has no tokens and the tokenizer has no separator token to start from")
        out.append((ids, spans))
    return out


def start_ids(tokenizer: Any) -> list[int]:
    """What a text begins with before its first word: the tokenizer's own BOS, else the separator, else nothing."""
    first = separator_id(tokenizer)
    return [first] if first is not None else frame(tokenizer)[0]


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that follows another one: no BOS, no added space mark, exactly the given characters.

    ``" Paris"`` and ``"Paris"`` differ for byte-level tokenizers: bring the leading space along. Tokenizers of the
    SentencePiece kind put a space mark before any text that they are given, so the text is tokenised behind an anchor.

    Raises:
        ValueError: if the text has no tokens.
    """
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if ids and str(tokenizer.convert_ids_to_tokens(ids[0])).startswith(_SPACE_MARK):
        anchor = list(tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"])
        joint = list(tokenizer(_ANCHOR + text, add_special_tokens=False)["input_ids"])
        if joint[: len(anchor)] == anchor:
            ids = joint[len(anchor) :]
    if not ids:
        raise ValueError(f"the continuation {text!r} has no tokens")
    return ids


def pad(
    rows: Sequence[Sequence[int]], side: Literal["left", "right"] = "right", value: int = 0
) -> tuple[Tensor, Tensor]:
    """Ids and mask (1 = token, 0 = padding), both (rows, longest) and int64."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        columns = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[index, columns] = torch.tensor(row, dtype=torch.long)
        mask[index, columns] = 1
    return ids, mask


def batches(lengths: Sequence[int], max_tokens: int, waste: float = 1.0, few: int = 512) -> list[list[int]]:
    """Indices in batches of similar length, each of at most ``max_tokens`` tokens once padded (or of one row).

    Sorted by length, longest first, so that little is padded and a batch that does not fit shows at once.

    Args:
        waste: start a new batch when a row would be padded by more than this share of the batch's width, once the
            batch has ``few`` tokens (below that, a smaller number of batches is worth more than the padding).
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    out: list[list[int]] = []
    for index in order:
        if out:
            width = max(lengths[out[-1][0]], 1)
            fits = (len(out[-1]) + 1) * width <= max_tokens
            if fits and (lengths[index] >= (1 - waste) * width or len(out[-1]) * width < few):
                out[-1].append(index)
                continue
        out.append([index])
    return out
