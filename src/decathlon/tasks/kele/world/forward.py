"""GPT-2's next-token logits at the last position of each row, without a single padded token."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def last_token_logits(model: Any, ids: Tensor, lengths: Tensor) -> Tensor:
    """The logits that follow each row, as ``model(ids).logits`` has them at ``lengths - 1``, with gradients.

    Rows are packed into one sequence of real tokens, sorted by length: linear layers see no padding, attention runs
    once per length, and the last layer computes queries and the MLP for last tokens only.

    Args:
        model: a GPT2LMHeadModel without cross-attention; its training mode decides about dropout.
        ids: (rows, longest), padded on the right with anything.
        lengths: (rows,), at least 1.

    Returns:
        (rows, vocabulary), in the order of the rows.
    """
    order = torch.argsort(lengths, stable=True)
    ids, lengths = ids[order], lengths[order]
    values, counts = torch.unique_consecutive(lengths, return_counts=True)
    groups = list(zip(counts.tolist(), values.tolist()))
    positions = torch.arange(ids.shape[1], device=ids.device)
    real = positions < lengths[:, None]
    last = lengths.cumsum(0) - 1

    config, body = model.config, model.transformer
    heads = config.n_head
    attention_dropout = config.attn_pdrop if model.training else 0.0
    x = body.wte(ids[real]) + body.wpe(positions.expand_as(ids)[real])
    x = body.drop(x)
    for index, block in enumerate(body.h):
        normed = block.ln_1(x)
        weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
        width = weight.shape[0]
        if index < len(body.h) - 1:
            query, keys = torch.addmm(bias, normed, weight).split([width, 2 * width], dim=-1)
            rows_of_query = [count * length for count, length in groups]
        else:
            keys = torch.addmm(bias[width:], normed, weight[:, width:])
            query = torch.addmm(bias[:width], normed[last], weight[:, :width])
            rows_of_query = [count for count, _ in groups]
            x = x[last]
        mixed = _attention(query, keys, groups, rows_of_query, heads, attention_dropout)
        x = x + block.attn.resid_dropout(_linear(block.attn.c_proj, mixed))
        x = x + _mlp(block.mlp, block.ln_2(x))
    logits = F.linear(body.ln_f(x), model.lm_head.weight)
    return logits[torch.argsort(order)]


def _attention(
    query: Tensor,
    keys: Tensor,
    groups: list[tuple[int, int]],
    rows_of_query: list[int],
    heads: int,
    dropout: float,
) -> Tensor:
    """Causal attention inside each row; a query tensor with one row per sequence stands at its last token."""
    parts = []
    for (count, length), q, kv in zip(
        groups, query.split(rows_of_query), keys.split([count * length for count, length in groups])
    ):
        q = q.reshape(count, -1, heads, q.shape[-1] // heads).transpose(1, 2)
        k, v = kv.view(count, length, 2, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        causal = q.shape[2] > 1
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
        parts.append(mixed.transpose(1, 2).reshape(-1, query.shape[-1]))
    return torch.cat(parts)


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    return mlp.dropout(_linear(mlp.c_proj, mlp.act(_linear(mlp.c_fc, x))))


def _linear(layer: Any, x: Tensor) -> Tensor:
    """GPT-2's transposed linear layer on (rows, width)."""
    return torch.addmm(layer.bias, x, layer.weight)
