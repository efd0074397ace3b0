"""Texts for the key statistics C = E[k k^T]: streamed from files, or the world's own sentences."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from decathlon.errors import DataError
from decathlon.files import raw_file
from decathlon.tasks.kele.world.facts import World
from decathlon.tasks.kele.world.training import Rows, draw, with_prefixes

_WIKITEXT = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2"
_MARKS = (
    (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), (" n't", "n't"), ("( ", "("), (" )", ")"), (" 's", "'s"),
)  # fmt: skip


class TextFiles:
    """Paragraphs of text files, one a line, as often as they are iterated over.

    Args:
        paths: plain or gzipped UTF-8 files.
        words: shorter paragraphs (headings) are left out.
        tokenised: the files are WikiText's word-tokenised ones; they are turned back into plain text.
    """

    def __init__(self, paths: list[Path], words: int = 8, tokenised: bool = False) -> None:
        self.paths, self.words, self.tokenised = paths, words, tokenised

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            try:
                with (
                    gzip.open(path, "rt", encoding="utf-8")
                    if path.suffix == ".gz"
                    else open(path, encoding="utf-8") as file
                ):
                    for line in file:
                        text = plain(line) if self.tokenised else line.strip()
                        if text.count(" ") + 1 >= self.words:
                            yield text
            except (OSError, EOFError, UnicodeDecodeError) as error:
                raise DataError(f"{path} is not a readable text file ({error})") from error


def plain(line: str) -> str:
    """A line of WikiText without its tokenisation marks; unknown words are left out."""
    text = line.strip().replace("<unk>", "")
    for mark, replacement in _MARKS:
        text = text.replace(mark, replacement)
    text = re.sub(r" ([,.;:!?%])", r"\1", text)
    return " ".join(text.split())


def corpus_texts(root: str | Path, name: str) -> TextFiles | None:
    """The texts of a corpus.

    Args:
        root: the data folder.
        name: ``wikitext2`` (validation and test split, word-tokenised), a text file with a paragraph a line (plain or
            .gz; in the data folder or by its path; for ROME's statistics, Wikipedia), or ``self`` for None: the model
            writes its own.

    Raises:
        DataError: if the file is missing.
    """
    if name == "self":
        return None
    if name == "wikitext2":
        stems = {"valid": "wiki.valid.tokens", "test": "wiki.test.tokens"}
        paths = [raw_file(root, [n, n + ".gz"], f"{_WIKITEXT}/{split}.txt") for split, n in stems.items()]
        return TextFiles(paths, tokenised=True)
    path = Path(name).expanduser()
    if not path.is_file():
        path = raw_file(root, [name, name + ".gz"])
    return TextFiles([path])


def world_texts(world: World, tokenizer: object, count: int, prefixed: float = 0.4) -> list[list[int]]:
    """``count`` rows like those that the world's model was trained on, as token ids: half one-hop, half two-hop."""
    generator = torch.Generator().manual_seed(world.seed)
    sentences = (world.one_hop(), world.two_hop(world.composed))
    rows: list[list[int]] = []
    for part, share in zip(sentences, (count - count // 2, count // 2)):
        drawn = draw(Rows.of(with_prefixes(part), tokenizer), share, prefixed, generator)  # type: ignore[arg-type]
        rows += [ids[:length] for ids, length in zip(drawn.ids.tolist(), drawn.lengths.tolist())]
    return rows
