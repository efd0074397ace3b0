"""The score of a pair by a frozen language model and an adapter."""

from typing import Any

from torch import Tensor

from decathlon.language.prefix import from_block
from decathlon.tasks.cora.decoder import answer_logits, last_hidden
from decathlon.tasks.cora.methods import Adapter, Batch


def scores_of(llm: Any, adapter: Adapter, batch: Batch, answers: tuple[int, int], score: str) -> Tensor:
    """Scores of a batch, (B,) in float32.

    Args:
        answers: ids of Yes and No. score: ``yes`` (the raw logit of Yes) or ``yes_minus_no``.
    """
    known = batch.ids.clamp_min(0)
    with adapter.applied(batch):
        if batch.hidden is not None and adapter.first is not None:
            with from_block(llm, adapter.first, batch.hidden):
                last = last_hidden(llm, known, batch.lengths)
        elif (batch.ids < 0).any():
            embeds = adapter.embeds(batch, llm.get_input_embeddings()(known))
            last = last_hidden(llm, known, batch.lengths, embeds)
        else:
            last = last_hidden(llm, known, batch.lengths)
    two = answer_logits(llm, last, answers)
    return two[:, 0] if score == "yes" else two[:, 0] - two[:, 1]
