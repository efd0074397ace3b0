"""What a method leaves of the language model's general ability: plain sentences before and after."""

from typing import Any

import torch
from torch import Tensor

from decathlon.language.forward import device_of
from decathlon.language.tokens import encode, pad
from decathlon.tasks.cora.methods import Adapter

SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Water boils at one hundred degrees Celsius at sea level.",
    "The Earth moves around the Sun once every year.",
    "Shakespeare wrote Hamlet, Macbeth and Romeo and Juliet.",
    "A week has seven days, and a year has twelve months.",
    "The heart pumps blood through the body.",
    "Plants use sunlight to turn water and carbon dioxide into sugar.",
    "If you add two and three, you get five.",
    "The Pacific is the largest ocean on Earth.",
    "Bees make honey, and cows give milk.",
    "Once upon a time there was a king who had three daughters.",
    "She opened the door, turned on the light and sat down on the chair.",
)


@torch.no_grad()
def log_likelihood(llm: Any, tokenizer: Any) -> Tensor:
    """Log-probability per token of each sentence, in nats, (sentences,) float64 on the CPU."""
    ids, mask = (part.to(device_of(llm)) for part in pad(encode(tokenizer, SENTENCES)))
    logits = llm(input_ids=ids, use_cache=False).logits[:, :-1].float()
    found = torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    real = mask[:, 1:]
    return ((found * real).sum(1).double() / real.sum(1)).cpu()


def general_ability(llm: Any, tokenizer: Any, adapter: Adapter) -> dict[str, float]:
    """Mean log-probability per token of plain sentences: the frozen model, and as the method leaves it without a pair.

    CoRA's increments exist for a pair only, so its two numbers are one; static LoRA stays in the model.
    """
    llm.eval()
    before = log_likelihood(llm, tokenizer)
    with adapter.without_pair():
        after = log_likelihood(llm, tokenizer)
    return {"general_before": float(before.mean()), "general_after": float(after.mean())}
