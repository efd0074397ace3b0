"""Batched generation: greedy decoding with stop strings, and seeded top-k sampling."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from decathlon.language.decoder import check_family, check_positions
from decathlon.language.forward import device_of, head, hidden_states
from decathlon.language.masks import masks_of
from decathlon.language.tokens import Bos, batches, encode
from decathlon.language.tree import Row, collate, pack

_LIKELIEST = 512


class _Room(DynamicLayer):
    """Keys and values of one layer with room for the tokens to come: a step writes a column and copies nothing."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        rows, heads, used = keys.shape[:3]
        self.used = used
        self.buffers = [
            torch.cat([part, part.new_zeros(rows, heads, room, part.shape[-1])], dim=2) for part in (keys, values)
        ]
        self.keys, self.values = (buffer[:, :, :used] for buffer in self.buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.used + key_states.shape[2]
        for buffer, new in zip(self.buffers, (key_states, value_states)):
            buffer[:, :, self.used : end] = new
        self.used = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def keep(self, rows: Tensor) -> None:
        self.buffers = [buffer[rows] for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, : self.used] for buffer in self.buffers)


def _prefill(
    model: Any, prompts: Sequence[Sequence[int]], room: int, max_tokens: int
) -> tuple[list[_Room], Tensor, Tensor]:
    """Run the prompts, shared prefixes once: the layers' caches, left-padded; the mask; the next token's logits."""
    device = device_of(model)
    width = max(len(prompt) for prompt in prompts)
    rows = pack(prompts)
    parts: list[tuple[list[tuple[Tensor, Tensor]], list[int], Tensor]] = []
    for batch in batches([len(row.tokens) for row in rows], max_tokens, waste=0.5, few=64):
        chosen: list[Row] = [rows[index] for index in batch]
        ids, positions, allowed = (part.to(device) for part in collate(chosen))
        cache: Any = DynamicCache()
        hidden, _ = hidden_states(model, ids, masks_of(model, allowed, positions, positions), positions, cache)
        paths = [path for row in chosen for path in row.paths]
        r = torch.tensor([index for index, row in enumerate(chosen) for _ in row.paths], device=device)
        # A short path is padded on the left with its row's node 0; the mask hides it.
        columns = torch.tensor([[0] * (width - len(path)) + path for path in paths], device=device)
        layers = [
            (layer.keys.transpose(1, 2)[r[:, None], columns], layer.values.transpose(1, 2)[r[:, None], columns])
            for layer in cache.layers
        ]
        parts.append(
            (layers, [member for row in chosen for member in row.members], head(model, hidden[r, columns[:, -1]]))
        )
    order = torch.tensor([member for _, members, _ in parts for member in members]).argsort().to(device)
    depth = len(parts[0][0])
    layers_out = []
    for index in range(depth):
        keys, values = (torch.cat([part[0][index][side] for part in parts])[order].transpose(1, 2) for side in (0, 1))
        layers_out.append(_Room(keys, values, room))
    mask = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    for index, prompt in enumerate(prompts):
        mask[index, width - len(prompt) :] = 1
    return layers_out, mask, torch.cat([part[2] for part in parts])[order]


def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    choose: Callable[[Tensor, list[int]], Tensor],
    finished: Callable[[list[int]], bool],
    max_tokens: int,
) -> list[list[int]]:
    """Extend each prompt token by token. ``choose`` gets the logits and which prompts they belong to."""
    check_family(model)
    out: list[list[int]] = [[] for _ in prompts]
    if max_new_tokens < 1 or not prompts:
        return out
    check_positions(model, max(len(prompt) for prompt in prompts) + max_new_tokens - 1)
    layers, mask, logits = _prefill(model, prompts, max_new_tokens, max_tokens)
    cache = Cache(layers=[*layers])
    alive = list(range(len(prompts)))
    lengths = mask.sum(dim=1)
    for step in range(max_new_tokens):
        tokens = choose(logits, alive)
        keep = []
        for row, (index, token) in enumerate(zip(alive, tokens.tolist())):
            out[index].append(token)
            if not finished(out[index]):
                keep.append(row)
        if not keep or step + 1 == max_new_tokens:
            break
        if len(keep) < len(alive):
            kept = torch.tensor(keep, device=mask.device)
            alive = [alive[row] for row in keep]
            mask, lengths, tokens = mask[kept], lengths[kept], tokens[kept]
            for layer in layers:
                layer.keep(kept)
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        positions = lengths[:, None] + step
        masks = masks_of(model, mask[:, None].bool(), positions, mask.cumsum(dim=1) - 1)
        hidden, _ = hidden_states(model, tokens[:, None], masks, positions, cache)
        logits = head(model, hidden[:, -1])
    return out


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*ends, tokenizer.eos_token_id] if token is not None}


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str] | None = None,
    *,
    bos: Bos = "auto",
    max_tokens: int = 8192,
) -> list[str]:
    """Greedy continuation of each prompt, as text.

    Identical prompts are decoded once, a prefix that prompts share is run once, and rows that have ended leave the
    batch. Ties between logits go to the smaller token id.

    Args:
        model: a causal language model of a supported family, in eval mode.
        stop: strings that end a continuation; the text is cut before the first of them.
        bos: as in ``score``.
        max_tokens: tokens (prompts and continuations) in memory at a time.

    Returns:
        One text for each prompt, without special tokens. Byte-level tokenizers keep the leading space.
    """
    stops = [text for text in (stop or []) if text]
    ends = _end_tokens(model, tokenizer)

    def text_of(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def finished(ids: list[int]) -> bool:
        return ids[-1] in ends or (bool(stops) and any(mark in text_of(ids) for mark in stops))

    unique = list(dict.fromkeys(prompts))
    encoded = encode(tokenizer, unique, bos)
    texts: dict[str, str] = {}
    for batch in batches([len(row) + max_new_tokens for row in encoded], max_tokens):
        rows = [encoded[index] for index in batch]
        made = _decode(model, rows, max_new_tokens, lambda logits, _: logits.argmax(-1), finished, max_tokens)
        for index, ids in zip(batch, made):
            text = text_of(ids[:-1] if ids and ids[-1] in ends else ids)
            cuts = [text.find(mark) for mark in stops if mark in text]
            texts[unique[index]] = text[: min(cuts)] if cuts else text
    return [texts[prompt] for prompt in prompts]


@torch.inference_mode()
def sample(
    model: Any, start: Sequence[Sequence[int]], max_new_tokens: int, *, top_k: int = 5, seed: int = 0
) -> list[list[int]]:
    """Top-k sampled continuations of token ids, reproducible: the draws depend on ``seed`` and the row only.

    Rows do not end at an end-of-sequence token: each has exactly ``max_new_tokens`` new ids.

    Args:
        top_k: how many of the likeliest tokens may be drawn; the size of the vocabulary: any.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(start), max_new_tokens, generator=generator, dtype=torch.float64)
    steps = [0] * len(start)

    def choose(logits: Tensor, alive: list[int]) -> Tensor:
        u = torch.stack([draws[row, steps[row]] for row in alive])
        for row in alive:
            steps[row] += 1
        return pick(logits, u.to(logits.device), top_k)

    return _decode(model, start, max_new_tokens, choose, lambda ids: False, max_tokens=8192)


def pick(logits: Tensor, u: Tensor, top_k: int, likeliest: int = _LIKELIEST) -> Tensor:
    """The token of each row at which the probabilities, added up from the likeliest on, reach ``u``.

    Args:
        logits: (rows, vocabulary). u: (rows,), uniform in [0, 1), float64. top_k: as in ``sample``.
        likeliest: so many tokens are put in order at first; where ``u`` lies beyond them, 16 times as many. The result
            does not depend on it: it saves sorting a whole vocabulary for each token that is drawn.
    """
    wide = logits.double()
    count = min(top_k, logits.shape[-1])
    first = min(likeliest, count)
    if first < count < logits.shape[-1]:
        first = count
    values, tokens = wide.topk(first, dim=-1)
    whole = first == count
    share = torch.softmax(values, dim=-1) if whole else (values - wide.logsumexp(dim=-1, keepdim=True)).exp()
    cumulative = share.cumsum(dim=-1)
    place = (cumulative < u[:, None]).sum(dim=-1)
    picked = tokens.gather(1, place.clamp(max=first - 1)[:, None])[:, 0]
    beyond = place == first
    if not whole and bool(beyond.any()):
        picked[beyond] = pick(logits[beyond], u[beyond], top_k, 16 * likeliest)
    return picked
