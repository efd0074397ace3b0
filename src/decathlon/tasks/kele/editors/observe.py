"""One pass over the rows of some edits that keeps all that later steps need: they go on from the edited layer only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from decathlon.language.decoder import check_positions, decoder_of
from decathlon.language.forward import device_of, hidden_states
from decathlon.language.increments import Increment, incremented_modules
from decathlon.language.masks import Masks, masks_of
from decathlon.language.resume import Past
from decathlon.language.taps import first_tensor, run, tap
from decathlon.language.tokens import pad
from decathlon.tasks.kele.update import LowRank

Patches = Sequence[Mapping[str, LowRank]]


@dataclass
class Observed:
    """What a pass saw at the columns from each row's ``start`` on; rows are padded on the right.

    hidden: output of the tapped block, (rows, columns, width). keys, values: input and output of its MLP's last
    matrix. attention: output of its attention branch. positions: (rows, columns). masks: additive, (rows, 1,
    columns, earlier + columns) each. past: keys and values of the columns before ``start`` in the blocks above.
    """

    hidden: Tensor
    keys: Tensor
    values: Tensor
    attention: Tensor
    positions: Tensor
    masks: Masks
    past: Past

    def select(self, rows: Tensor) -> "Observed":
        """The same for some of the rows."""
        return Observed(
            hidden=self.hidden[rows],
            keys=self.keys[rows],
            values=self.values[rows],
            attention=self.attention[rows],
            positions=self.positions[rows],
            masks={window: mask[rows] for window, mask in self.masks.items()},
            past=self.past.select(rows),
        )


def increments(patches: Patches | None) -> dict[str, Increment]:
    """Each row's own low-rank changes, {module name: change} per row, as increments of whole modules."""
    out = {}
    for name in sorted({name for patch in patches or [] for name in patch}):
        factors = [patch.get(name) for patch in patches or []]
        rank = max(factor.left.shape[1] for factor in factors if factor is not None)
        left, right = (_stack(factors, side, rank) for side in ("left", "right"))
        out[name] = Increment(right, left.transpose(1, 2))
    return out


def _stack(factors: Sequence[LowRank | None], side: str, rank: int) -> Tensor:
    example = next(getattr(factor, side) for factor in factors if factor is not None)
    out = example.new_zeros(len(factors), example.shape[0], rank)
    for row, factor in enumerate(factors):
        if factor is not None:
            part = getattr(factor, side)
            out[row, :, : part.shape[1]] = part
    return out


@torch.no_grad()
def observe(
    model: Any, layer: int, rows: Sequence[Sequence[int]], starts: Sequence[int], patches: Patches | None = None
) -> Observed:
    """Run ``rows`` once, with each row's ``patches`` in place, and keep what is needed to go on from block ``layer``.

    Args:
        rows: token ids. starts: for each, the first column to keep.
        patches: for each row, changes of weights by module name.
    """
    device, decoder = device_of(model), decoder_of(model)
    check_positions(model, max(len(row) for row in rows))
    ids, mask = (part.to(device) for part in pad(rows))
    start = torch.tensor(starts, device=device)
    length = mask.sum(dim=1)
    block, attention, down = (decoder.name(kind, layer) for kind in ("block", "attention", "down"))
    cache: Any = DynamicCache()
    positions = torch.arange(ids.shape[1], device=device).expand(ids.shape)
    # Patches first: hooks run in the order of registration, and the taps are to see the patched outputs.
    with (
        incremented_modules(model, increments(patches)),
        tap(model, [block, attention, down], keep=("input", "output")) as taps,
    ):
        hidden_states(model, ids, mask, positions, cache)

    columns = int((length - start).max())
    offsets = torch.arange(columns, device=device)
    where = (start[:, None] + offsets).clamp(max=ids.shape[1] - 1)
    row = torch.arange(len(rows), device=device)[:, None]
    before = int(start.max())
    earlier = torch.arange(before, device=device)[None, :] < start[:, None]
    own = (offsets[None, :, None] >= offsets[None, None, :]) & (start[:, None] + offsets < length[:, None])[:, None, :]
    own = own | torch.eye(columns, dtype=torch.bool, device=device)  # a padded column sees itself
    allowed = torch.cat([earlier[:, None, :].expand(-1, columns, -1), own], dim=2)
    above = {
        index: (cache.layers[index].keys[:, :, :before], cache.layers[index].values[:, :, :before])
        for index in range(layer + 1, decoder.layers)
    }
    return Observed(
        hidden=first_tensor(taps.outputs[block])[row, where],
        keys=taps.inputs[down][row, where],
        values=taps.outputs[down][row, where],
        attention=taps.outputs[attention][row, where],
        positions=where,
        masks=masks_of(model, allowed, where, torch.cat([positions[:, :before], where], dim=1)),
        past=Past(above),
    )


@torch.no_grad()
def at_subjects(
    model: Any,
    rows: Sequence[Sequence[int]],
    subjects: Sequence[int],
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    patches: Patches | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of modules at one position per row, (rows, width) each; the pass ends at the last module.

    Args:
        rows: token ids; what stands behind the subject is not needed and is cut off.
    """
    device = device_of(model)
    ids, mask = (part.to(device) for part in pad([row[: place + 1] for row, place in zip(rows, subjects)]))
    row, where = torch.arange(len(rows), device=device), torch.tensor(subjects, device=device)
    positions = torch.arange(ids.shape[1], device=device).expand(ids.shape)
    names = list(dict.fromkeys([*inputs, *outputs]))
    with (
        incremented_modules(model, increments(patches)),
        tap(model, names, keep=("input", "output"), stop=True) as taps,
    ):
        run(hidden_states, model, ids, mask, positions)
    return (
        {name: taps.inputs[name][row, where] for name in inputs},
        {name: taps.outputs[name][row, where] for name in outputs},
    )
