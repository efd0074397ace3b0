"""A corpus as token files, made once per content, tokenizer and length, and kept in the data folder."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decathlon import files, locks
from decathlon.errors import DataError
from decathlon.language.bpe import train_bpe
from decathlon.language.byte_tokens import BYTES, byte_ids
from decathlon.language.corpora import SPLITS, Corpus
from decathlon.language.corpus import TokenFile, write_tokens
from decathlon.progress import track
from decathlon.storage import digest, processed_path

BYTE, BPE = "byte", "bpe"
_END_OF_DOCUMENT = b"\n\n"  # in byte tokens: documents are joined with blank lines


@dataclass
class Tokenised:
    """A corpus in tokens.

    attributes:
        files: of the splits ``train``, ``val``, ``test``.
        vocabulary: how many ids. padding: the id that fills up short documents.
        content: SHA-256 of all texts in order, hexadecimal. Never compare what was measured on two of them.
        tokenizer: of transformers, or None for bytes.
    """

    files: dict[str, TokenFile]
    vocabulary: int
    padding: int
    content: str
    tokenizer: Any

    def bytes_of(self, ids: np.ndarray) -> int:
        """How many bytes of text the ids stand for."""
        return bytes_of(self.tokenizer, ids.tolist())


def bytes_of(tokenizer: Any, ids: Sequence[int]) -> int:
    """How many bytes of text the ids stand for; ``tokenizer`` is None for bytes."""
    return len(ids) if tokenizer is None else len(tokenizer.decode(list(ids)).encode())


def encoded(tokenizer: Any, text: str) -> np.ndarray:
    """The ids of a text, with nothing put before or after it; ``tokenizer`` is None for bytes."""
    if tokenizer is None:
        return byte_ids(text)
    found = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return np.asarray(found, dtype=np.int64)


def tokenised(
    root: str | Path, name: str, corpus: Corpus, tokens: str = BYTE, vocabulary: int = 4096, longest: int | None = None
) -> Tokenised:
    """The token files of a corpus: from the cache, or made now.

    Args:
        root: the data folder. name: of the corpus, for the names of files.
        tokens: ``byte``; ``bpe``: a byte-level BPE of ``vocabulary`` tokens, trained on the corpus's training part; or
            the tokenizer of a name on the hub or of a folder (``t5-base``).
        longest: documents are cut off after so many tokens.

    Raises:
        DataError: one line, if the corpus or the tokenizer cannot be had.
    """
    key = {**corpus.key(root), "tokens": tokens, "longest": longest}
    if tokens == BPE:
        key["vocabulary"] = int(vocabulary)
    base = processed_path(root, f"{name}-{tokens.replace('/', '-')}-{digest(key)}")
    paths = {split: base.with_name(f"{base.name}-{split}.tok") for split in SPLITS}
    about, trained = base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}-bpe")
    if not about.exists():
        with locks.locked(base.with_name(f"{base.name}.lock")):
            if not about.exists():
                _make(corpus, root, tokens, int(vocabulary), longest, paths, about, trained)
    said = json.loads(about.read_text())
    tokenizer = _tokenizer(tokens, trained)
    return Tokenised(
        {split: TokenFile(path) for split, path in paths.items()}, said["vocabulary"], said["padding"], said["content"],
        tokenizer,
    )  # fmt: skip


def _make(
    corpus: Corpus, root: str | Path, tokens: str, vocabulary: int, longest: int | None, paths: dict[str, Path],
    about: Path, trained: Path,
) -> None:  # fmt: skip
    splits = dict(corpus.splits(root))
    if tokens == BPE:
        splits["train"] = list(splits["train"])
        train_bpe(splits["train"], vocabulary).save_pretrained(trained)
    tokenizer = _tokenizer(tokens, trained)
    content = hashlib.sha256()
    size = BYTES if tokenizer is None else len(tokenizer)
    end = None if tokenizer is None else tokenizer.eos_token_id
    for split, path in paths.items():
        texts = track(splits[split], f"tokens of {split}")
        try:
            write_tokens(path, _encoded(texts, tokenizer, end, longest, content), size)
        except ValueError as error:
            raise DataError(f"the {split} part of the corpus: {error}") from error
    padding = 0 if tokenizer is None or tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    # Last: where it is, all the others are complete.
    files.write_text(about, json.dumps({"vocabulary": size, "padding": padding, "content": content.hexdigest()}))


def _encoded(texts: Iterable[str], tokenizer: Any, end: int | None, longest: int | None, content: Any) -> Iterator[Any]:
    for text in texts:
        raw = text.encode()
        content.update(len(raw).to_bytes(8, "little") + raw)
        if tokenizer is None:
            ids = byte_ids(raw[:longest] if longest is not None else raw + _END_OF_DOCUMENT)
        else:
            found = encoded(tokenizer, text).tolist()
            found = [*found[: None if longest is None else longest - 1], end] if end is not None else found[:longest]
            ids = np.asarray(found, dtype=np.int64)
        if longest is None or len(ids) > 1:  # a sample of one token has nothing to predict
            yield ids


def _tokenizer(tokens: str, trained: Path) -> Any:
    if tokens == BYTE:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(trained) if tokens == BPE else tokens)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"the tokenizer {tokens} is neither a folder nor can it be fetched ({reason})") from error
