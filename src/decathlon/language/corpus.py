"""Token streams on disk: documents packed into one memory-mapped file, read as windows or one by one.

The file holds the tokens (uint16, or uint32 for vocabularies above 65,536), where each document begins (int64), and a
footer of 32 bytes that says how many there are of both.
"""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from decathlon.errors import DataError
from decathlon.files import atomic

_FOOTER = struct.Struct("<8sQQQ")  # mark, bytes per token, tokens, documents
_MARK = b"DECTOK01"


def write_tokens(
    path: str | Path, documents: Iterable[Sequence[int] | np.ndarray], vocabulary: int, separator: int | None = None
) -> Path:
    """Write documents one after another; nothing but one document is in memory, and ``path`` appears when complete.

    Args:
        documents: token ids of each; empty ones are left out.
        vocabulary: how many ids there are; it decides about 2 or 4 bytes per token.
        separator: the id that is put after each document.

    Raises:
        ValueError: one line, for an id outside of the vocabulary, or if there is no document.
    """
    path = Path(path)
    dtype = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
    starts = [0]
    end = [] if separator is None else [separator]
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for index, document in enumerate(documents):
            ids = np.asarray([*document, *end] if end and len(document) else document)
            if not len(ids):
                continue
            if ids.dtype.kind not in "iu" or int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
                raise ValueError(f"document {index} has ids outside of the vocabulary, 0 to {vocabulary - 1}")
            file.write(ids.astype(dtype).tobytes())
            starts.append(starts[-1] + len(ids))
        if len(starts) == 1:
            raise ValueError("there are no documents to write")
        file.write(b"\0" * (-file.tell() % 8))
        file.write(np.asarray(starts, dtype="<i8").tobytes())
        file.write(_FOOTER.pack(_MARK, dtype.itemsize, starts[-1], len(starts) - 1))
    return path


class TokenFile:
    """A file of ``write_tokens``, mapped into memory.

    attributes:
        tokens: all ids, separators included, (tokens,). starts: where each document begins, and the end of the last
            one, (documents + 1,).

    Raises:
        DataError: one line, if the file is no such file or was cut off.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < _FOOTER.size:
            raise DataError(f"{path} is no file of tokens")
        with open(self.path, "rb") as file:
            file.seek(size - _FOOTER.size)
            mark, width, tokens, documents = _FOOTER.unpack(file.read())
        place = -(-tokens * width // 8) * 8
        if mark != _MARK or size != place + 8 * (documents + 1) + _FOOTER.size:
            raise DataError(f"{path} is no complete file of tokens; delete it and write it again")
        self.tokens = np.memmap(self.path, dtype=f"<u{width}", mode="r", shape=(tokens,))
        self.starts = np.memmap(self.path, dtype="<i8", mode="r", offset=place, shape=(documents + 1,))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def document(self, index: int) -> np.ndarray:
        """The ids of one document, its separator included."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    def owners(self, first: int, last: int) -> np.ndarray:
        """Which document each of the tokens ``first`` to ``last - 1`` belongs to."""
        return np.searchsorted(self.starts, np.arange(first, last), side="right") - 1


class Windows(Dataset[Tensor]):
    """Windows of ``length`` tokens across document boundaries, as int64; what is left at the end is not used.

    Args:
        length: tokens of a window: T inputs and T targets need T + 1.
        stride: from one window to the next; None: length.

    Raises:
        ValueError: one line, if the file is shorter than one window.
    """

    def __init__(self, file: TokenFile, length: int, stride: int | None = None) -> None:
        stride = length if stride is None else stride
        if length < 1 or stride < 1:
            raise ValueError(f"length={length} and stride={stride} must be at least 1")
        if len(file.tokens) < length:
            raise ValueError(f"{file.path} has {len(file.tokens)} tokens, less than one window of {length}")
        self.file, self.length, self.stride = file, length, stride

    def __len__(self) -> int:
        return (len(self.file.tokens) - self.length) // self.stride + 1

    def __getitem__(self, index: int) -> Tensor:
        first = self._first(index)
        return torch.from_numpy(self.file.tokens[first : first + self.length].astype(np.int64))

    def documents(self, index: int) -> Tensor:
        """Which document each token of window ``index`` belongs to, for attention that ends at document boundaries."""
        first = self._first(index)
        return torch.from_numpy(self.file.owners(first, first + self.length))

    def _first(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return index * self.stride


class Documents(Dataset[tuple[Tensor, Tensor]]):
    """One document per sample, cut or padded on the right to ``length``: ids and mask (1 = token), int64."""

    def __init__(self, file: TokenFile, length: int, padding: int = 0) -> None:
        if length < 1:
            raise ValueError(f"length={length} must be at least 1")
        self.file, self.length, self.padding = file, length, padding

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        found = self.file.document(index)[: self.length].astype(np.int64)
        ids = torch.full((self.length,), self.padding, dtype=torch.long)
        ids[: len(found)] = torch.from_numpy(found)
        return ids, (torch.arange(self.length) < len(found)).long()
