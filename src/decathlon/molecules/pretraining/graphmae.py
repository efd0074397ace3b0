"""GraphMAE (Hou et al. 2022), in the recipe for molecules: reconstruct masked atoms from their surroundings."""

import torch
from torch import Tensor, nn

from decathlon.molecules.alphabet import MASKED_ATOM
from decathlon.molecules.batches import MoleculeBatch
from decathlon.molecules.encoders.gin import Gin, GinLayer
from decathlon.molecules.pretraining.masking import mask_atoms

ATOM_TYPES = MASKED_ATOM + 1  # 118 elements, and one class for the rest


class GraphMae(nn.Module):
    """Mask atoms, encode, PReLU, a linear map, hide the masked positions again, one GIN layer, a linear map to the
    atom types; the loss is the scaled cosine error mean (1 - cos(prediction, one-hot type))^alpha over masked atoms.

    Args:
        encoder: the GIN to pretrain. mask: share of atoms masked. alpha: exponent.
    """

    def __init__(self, encoder: Gin, mask: float = 0.25, alpha: float = 1.0) -> None:
        super().__init__()
        width = encoder.out_dim
        self.encoder = encoder
        self.mask = mask
        self.alpha = alpha
        self.to_decoder = nn.Sequential(nn.PReLU(), nn.Linear(width, width, bias=False))
        self.decoder = GinLayer(width)
        self.types = nn.Linear(width, ATOM_TYPES)

    def forward(self, batch: MoleculeBatch, generator: torch.Generator) -> Tensor:
        """The loss of a batch (scalar)."""
        masked_batch, masked = mask_atoms(batch, self.mask, generator)
        h = self.to_decoder(self.encoder.encode_atoms(masked_batch))
        hidden = torch.ones(len(h), 1, dtype=h.dtype, device=h.device).index_fill_(0, masked, 0)
        decoded = self.decoder(h * hidden, masked_batch)
        predicted = nn.functional.normalize(self.types(decoded[masked]), dim=1)
        target = batch.atoms[masked, 0].clamp(max=MASKED_ATOM)
        cosine = predicted.gather(1, target[:, None])
        return (1 - cosine).pow(self.alpha).mean()
