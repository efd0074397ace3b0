"""Log-probabilities of given continuations: batched, each shared prefix computed once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decathlon.language.decoder import check_family, check_positions
from decathlon.language.forward import device_of, head, hidden_states
from decathlon.language.masks import masks_of
from decathlon.language.tokens import Bos, batches, continuation_ids, encode
from decathlon.language.tree import collate, pack


class Scores(NamedTuple):
    """Scores of continuations, one entry per (prompt, continuation) pair, on the CPU.

    mean, total: log-probability per token and of the whole continuation, in nats, float64.
    length: number of tokens. greedy: whether every token is the arg-max given the prompt and the tokens before it.
    """

    mean: Tensor
    total: Tensor
    length: Tensor
    greedy: Tensor


@torch.inference_mode()
def score(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    bos: Bos = "auto",
    max_tokens: int = 4096,
    share: bool = True,
) -> Scores:
    """Score ``continuations[i]`` after ``prompts[i]``.

    Prompts that share a prefix (the same prompt with two candidate answers, few-shot demonstrations before many
    questions) are flattened into one row of a prefix tree, so the prefix is computed once.

    Args:
        model: a causal language model of a supported family, in eval mode.
        prompts, continuations: of the same length. A continuation follows its prompt verbatim: bring the leading
            space along (``" Paris"``).
        bos: ``auto`` puts the document separator before every prompt (see ``tokens.separator_id``), ``off`` does not.
        max_tokens: tokens per forward pass.
        share: False computes every pair on its own (for comparison).

    Raises:
        ValueError: for lists of different length, an empty continuation, or an unsupported family.
    """
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(prompts)} prompts but {len(continuations)} continuations")
    ids = {text: continuation_ids(tokenizer, text) for text in dict.fromkeys(continuations)}
    targets = [ids[text] for text in continuations]
    return score_ids(model, encode(tokenizer, prompts, bos), targets, max_tokens=max_tokens, share=share)


@torch.inference_mode()
def score_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    max_tokens: int = 4096,
    share: bool = True,
) -> Scores:
    """``score`` for token ids. The logits of a token are read at the position before it."""
    check_family(model)
    count = len(prompts)
    lengths = torch.tensor([len(target) for target in targets], dtype=torch.long)
    total = torch.zeros(count, dtype=torch.float64)
    greedy = torch.ones(count, dtype=torch.bool)
    sequences = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets)]
    check_positions(model, max((len(sequence) for sequence in sequences), default=0))
    rows = pack(sequences, max_branch=256 if share else -1)
    device = device_of(model)
    for batch in batches([len(row.tokens) for row in rows], max_tokens, waste=0.5, few=64):
        chosen = [rows[index] for index in batch]
        ids, positions, allowed = (part.to(device) for part in collate(chosen))
        hidden, _ = hidden_states(model, ids, masks_of(model, allowed, positions, positions), positions)
        r: list[int] = []
        node: list[int] = []
        token: list[int] = []
        owner: list[int] = []
        for index, row in enumerate(chosen):
            for path, member in zip(row.paths, row.members):
                size = len(targets[member])
                r.extend([index] * size)
                node.extend(path[len(prompts[member]) - 1 :])
                token.extend(targets[member])
                owner.extend([member] * size)
        logits = head(model, hidden[torch.tensor(r), torch.tensor(node)])
        wanted = torch.tensor(token, device=device)
        logp = torch.log_softmax(logits.float() if logits.dtype != torch.float64 else logits, dim=-1)
        owners = torch.tensor(owner)
        total.index_add_(0, owners, logp.gather(1, wanted[:, None])[:, 0].double().cpu())
        wrong = (logits.argmax(dim=-1) != wanted).cpu()
        greedy[owners[wrong]] = False
    return Scores(total / lengths, total, lengths, greedy)


@torch.inference_mode()
def next_logits(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, bos: Bos = "auto", max_tokens: int = 4096
) -> Tensor:
    """Logits of the token after each prompt, (prompts, vocabulary), at least float32, on the CPU."""
    check_family(model)
    sequences = encode(tokenizer, prompts, bos)
    check_positions(model, max((len(sequence) for sequence in sequences), default=0))
    rows = pack(sequences)
    device = device_of(model)
    out: Tensor | None = None
    for batch in batches([len(row.tokens) for row in rows], max_tokens, waste=0.5, few=64):
        chosen = [rows[index] for index in batch]
        ids, positions, allowed = (part.to(device) for part in collate(chosen))
        hidden, _ = hidden_states(model, ids, masks_of(model, allowed, positions, positions), positions)
        r = [index for index, row in enumerate(chosen) for _ in row.paths]
        node = [path[-1] for row in chosen for path in row.paths]
        logits = head(model, hidden[torch.tensor(r), torch.tensor(node)]).cpu()
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if out is None:
            out = torch.empty(len(prompts), logits.shape[1], dtype=logits.dtype)
        out[torch.tensor([member for row in chosen for member in row.members])] = logits
    if out is None:
        raise ValueError("no prompts were given")
    return out
