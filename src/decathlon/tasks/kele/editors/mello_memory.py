"""Edited facts kept as sentences, and found again by the similarity of embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.language.forward import device_of, hidden_states
from decathlon.language.tokens import Bos, batches, encode, pad, start_ids
from decathlon.tasks.kele.edit import Edit

_TOKENS = 4096

Embed = Callable[[Sequence[str]], Tensor]
"""From texts to their embeddings, (texts, width), at least float32, on the CPU."""


@dataclass(frozen=True)
class Memory:
    """Edits and the embeddings of their sentences, (edits, width)."""

    edits: tuple[Edit, ...] = ()
    vectors: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def with_own(self, own: "Memory") -> "Memory":
        """Both memories in one; where both have an edit of the same prompt and subject, ``own`` has the say."""
        if not own.edits or not self.edits:
            return own if own.edits else self
        replaced = {(edit.prompt, edit.subject) for edit in own.edits}
        kept = [index for index, edit in enumerate(self.edits) if (edit.prompt, edit.subject) not in replaced]
        edits = tuple(self.edits[index] for index in kept)
        return Memory(own.edits + edits, torch.cat([own.vectors, self.vectors[kept]]))

    def nearest(self, queries: Tensor) -> list[Edit]:
        """The edit whose embedding has the largest inner product with each query, (queries, width).

        Raises:
            ValueError: if there is no edit.
        """
        if not self.edits:
            raise ValueError("the memory is empty")
        return [self.edits[index] for index in (queries @ self.vectors.T).argmax(dim=1).tolist()]


class OwnStates:
    """Embeds a text as the mean of the language model's own last hidden states over its tokens, at unit length.

    What stands before the first word (BOS or separator) is left out: the state there is large and says nothing.
    """

    def __init__(self, model: Any, tokenizer: Any, bos: Bos = "auto") -> None:
        self.model, self.tokenizer, self.bos = model, tokenizer, bos

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = encode(self.tokenizer, texts, self.bos)
        start = start_ids(self.tokenizer)
        skip = [len(start) if row[: len(start)] == start and len(row) > len(start) else 0 for row in rows]

        def states(ids: Tensor, mask: Tensor) -> Tensor:
            positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
            return hidden_states(self.model, ids, mask, positions)[0]

        made = _pooled(rows, skip, states, device_of(self.model))
        return torch.nn.functional.normalize(made, dim=-1)


class Encoder:
    """Embeds a text as the mean of an encoder's last hidden states over its tokens, as Contriever does.

    Args:
        name: a folder or a name on the Hugging Face hub (``facebook/contriever``).

    Raises:
        DataError: one line, if it is not there and cannot be fetched.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self.model: Any = AutoModel.from_pretrained(name).eval().to(device)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            text = f"the encoder {name} is neither a folder with a model nor can it be fetched ({reason})"
            raise DataError(text) from error

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = list(self.tokenizer(list(texts))["input_ids"]) if texts else []

        def states(ids: Tensor, mask: Tensor) -> Tensor:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

        return _pooled(rows, [0] * len(rows), states, device_of(self.model))


@torch.no_grad()
def _pooled(
    rows: Sequence[Sequence[int]],
    skip: Sequence[int],
    states: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> Tensor:
    """Means of ``states`` over the tokens of each row but its first ``skip``, (rows, width), on the CPU."""
    out: list[Tensor] = [torch.empty(0)] * len(rows)
    for batch in batches([len(row) for row in rows], _TOKENS):
        ids, mask = (part.to(device) for part in pad([rows[index] for index in batch]))
        hidden = states(ids, mask)
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        first = torch.tensor([skip[index] for index in batch], device=device)[:, None]
        counted = (mask > 0) & (torch.arange(ids.shape[1], device=device) >= first)
        means = (hidden * counted[..., None]).sum(dim=1) / counted.sum(dim=1, keepdim=True)
        for index, mean in zip(batch, means.cpu()):
            out[index] = mean
    return torch.stack(out) if out else torch.zeros(0, 0)
