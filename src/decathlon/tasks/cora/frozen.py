"""What the frozen part of a language model makes of prompts, computed once: states below the first adapted block.

Blocks below the first adapted one see no increment, so what leaves them depends on the prompt alone. Starting there is
exact, and shared by all methods, seeds, epochs and sweep points that adapt the same blocks.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from decathlon.language.fingerprint import fingerprint, tokenizer_fingerprint
from decathlon.language.forward import device_of
from decathlon.language.prefix import block_input, from_block
from decathlon.language.tokens import batches, pad
from decathlon.progress import track
from decathlon.storage import cached_state
from decathlon.tasks.cora.decoder import answer_logits, last_hidden

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Frozen:
    """States of all prompts' tokens, one after the other, and the frozen model's own answers.

    attributes:
        hidden: (tokens, width). starts: (prompts + 1,). answers: logits of Yes and No, (prompts, 2) float32.
    """

    hidden: Tensor
    starts: Tensor
    answers: Tensor

    def padded(self, places: Tensor) -> Tensor:
        """States of some prompts, padded on the right with zeros, (B, T, width)."""
        parts = [self.hidden[int(self.starts[place]) : int(self.starts[place + 1])] for place in places]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


def frozen_states(
    root: str | Path, llm: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], first: int, tokens: tuple[int, int],
    kept: str = "float32", max_tokens: int = 4096,
) -> Frozen:  # fmt: skip
    """The states that enter block ``first``, from the cache or computed now.

    The cache's key is the content of model and tokenizer, the prompts' tokens (and so template and rows), the block,
    the dtypes, the answers' tokens, and the versions of torch and transformers.

    Args:
        kept: dtype of the states in the cache.

    Raises:
        ValueError: one line, for an unknown dtype.
    """
    if kept not in DTYPES:
        raise ValueError(f"cache_dtype={kept} is unknown; choose {', '.join(DTYPES)}")
    key = {
        "model": fingerprint(llm), "tokenizer": tokenizer_fingerprint(tokenizer), "prompts": _flat(prompts),
        "first": first, "tokens": list(tokens), "kept": kept, "dtype": str(llm.dtype),
        "versions": [torch.__version__, transformers.__version__],
    }  # fmt: skip

    def make() -> dict[str, Any]:
        log.info("computing the frozen states of %d prompts, once", len(prompts))
        return vars(compute(llm, prompts, first, tokens, kept, max_tokens))

    state = cached_state(root, "cora-frozen", key, make)
    return Frozen(state["hidden"], state["starts"], state["answers"])


def _flat(prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    return [torch.tensor([token for prompt in prompts for token in prompt]), torch.tensor([len(p) for p in prompts])]


@torch.no_grad()
def compute(
    llm: Any, prompts: Sequence[Sequence[int]], first: int, tokens: tuple[int, int], kept: str, max_tokens: int
) -> Frozen:
    """The same states, computed now and kept nowhere."""
    starts = torch.tensor([0, *(len(prompt) for prompt in prompts)]).cumsum(0)
    hidden: Tensor | None = None
    answers = torch.zeros(len(prompts), 2)
    groups = batches([len(prompt) for prompt in prompts], max_tokens)
    for group in track(groups, "frozen states of the prompts"):
        ids, mask = (part.to(device_of(llm)) for part in pad([prompts[index] for index in group]))
        states = block_input(llm, first, ids)
        if hidden is None:
            hidden = torch.zeros(int(starts[-1]), states.shape[-1], dtype=DTYPES[kept])
        with from_block(llm, first, states):
            answers[group] = answer_logits(llm, last_hidden(llm, ids, mask.sum(1)), tokens).cpu()
        for place, index in enumerate(group):
            hidden[starts[index] : starts[index + 1]] = states[place, : len(prompts[index])].to(DTYPES[kept]).cpu()
    assert hidden is not None
    return Frozen(hidden, starts, answers)
