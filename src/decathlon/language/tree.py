"""Many token sequences in one row: shared prefixes stand once, and each branch attends to its own past only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Row:
    """A prefix tree flattened into one sequence.

    tokens, depths: one entry per node; a node's depth is its position in every sequence that runs through it.
    paths: for each sequence, its nodes in order.
    members: for each sequence, its index in the caller's list.
    """

    tokens: list[int]
    depths: list[int]
    paths: list[list[int]]
    members: list[int]


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    count = 0
    for x, y in zip(a, b):
        if x != y:
            break
        count += 1
    return count


def pack(sequences: Sequence[Sequence[int]], max_branch: int = 256) -> list[Row]:
    """Flatten sequences into rows, those that share at least half of a sequence into the same one.

    Args:
        sequences: token ids, each non-empty.
        max_branch: nodes that a row may have beyond its first sequence; attention inside a row is dense, so a row
            that grows without bound costs more than it saves.
    """
    order = sorted(range(len(sequences)), key=lambda index: list(sequences[index]))
    rows: list[Row] = []
    previous: Sequence[int] = ()
    first = 0
    for index in order:
        sequence = sequences[index]
        shared = _shared(previous, sequence)
        new = len(sequence) - shared
        if rows and 2 * shared >= len(sequence) and len(rows[-1].tokens) + new <= first + max_branch:
            row = rows[-1]
        else:
            row = Row([], [], [], [])
            rows.append(row)
            shared, new, first = 0, len(sequence), len(sequence)
        start = len(row.tokens)
        path = (row.paths[-1][:shared] if row.paths else []) + list(range(start, start + new))
        row.tokens.extend(sequence[shared:])
        row.depths.extend(range(shared, len(sequence)))
        row.paths.append(path)
        row.members.append(index)
        previous = sequence
    return rows


def collate(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and positions (rows, longest), and who may attend to whom, boolean (rows, longest, longest).

    A padded node attends to itself only, so that its softmax is defined.
    """
    width = max(len(row.tokens) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    allowed = np.zeros((len(rows), width, width), dtype=bool)
    for r, row in enumerate(rows):
        count = len(row.tokens)
        ids[r, :count] = torch.tensor(row.tokens)
        positions[r, :count] = torch.tensor(row.depths)
        known = 0
        for path in row.paths:
            nodes = np.asarray(path)
            new = int((nodes < known).sum())  # nodes before this one are older sequences'
            if new < len(nodes):
                fresh = nodes[new:]
                allowed[r, fresh[:, None], nodes[:new][None, :]] = True
                allowed[r, fresh[:, None], fresh[None, :]] = np.tril(np.ones((len(fresh), len(fresh)), dtype=bool))
                known = int(fresh[-1]) + 1
        allowed[r, np.arange(count, width), np.arange(count, width)] = True
    return ids, positions, torch.from_numpy(allowed)
