"""Replacing atoms by the mask token."""

from dataclasses import replace

import torch
from torch import Tensor

from decathlon.molecules.alphabet import MASKED_ATOM
from decathlon.molecules.batches import MoleculeBatch


def mask_atoms(batch: MoleculeBatch, share: float, generator: torch.Generator) -> tuple[MoleculeBatch, Tensor]:
    """Hide element and chirality of a random share of a batch's atoms, at least one.

    Returns:
        The masked batch, and the positions (M,) int64 of the masked atoms.
    """
    n = len(batch.atoms)
    count = max(1, int(share * n))
    masked = torch.randperm(n, generator=generator)[:count].to(batch.atoms.device)
    atoms = batch.atoms.clone()
    atoms[masked, 0] = MASKED_ATOM
    atoms[masked, 1] = 0
    return replace(batch, atoms=atoms), masked
