"""Multi-property regression: predict twelve computed descriptors, and on graphs masked atoms too."""

import torch
from torch import Tensor, nn

from decathlon.graphs.batches import Batch
from decathlon.graphs.sums import mean_segments
from decathlon.molecules.alphabet import ATOM_ROWS
from decathlon.molecules.batches import MoleculeBatch
from decathlon.molecules.encoders import Encoder, Gin
from decathlon.molecules.pretraining.masking import mask_atoms


class Properties(nn.Module):
    """Mean squared error of the standardised labels of the batch, plus, for a graph encoder, the cross-entropy of
    the types of masked atoms.

    Args:
        encoder: to pretrain. labels: number of labels. mask: share of masked atoms.
    """

    def __init__(self, encoder: Encoder, labels: int, mask: float = 0.25) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask = mask
        self.head = nn.Linear(encoder.out_dim, labels)
        self.types = nn.Linear(encoder.out_dim, ATOM_ROWS) if encoder.inputs == "graph" else None

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The loss of a batch (scalar); labels that are NaN do not count."""
        if self.types is None or self.mask == 0 or not isinstance(batch, MoleculeBatch):
            return self._error(self.encoder(batch), batch.y)
        assert isinstance(self.encoder, Gin)
        masked_batch, masked = mask_atoms(batch, self.mask, generator)
        h = self.encoder.encode_atoms(masked_batch)
        loss = nn.functional.cross_entropy(self.types(h[masked]), batch.atoms[masked, 0])
        return loss + self._error(mean_segments(h, batch.node_starts), batch.y)

    def _error(self, z: Tensor, y: Tensor) -> Tensor:
        known = ~y.isnan()
        return (self.head(z) - y.nan_to_num()).square().mul(known).sum() / known.sum().clamp(min=1)


def standardised(values: Tensor) -> Tensor:
    """Columns of ``values`` (n, d) with mean 0 and standard deviation 1 over what is known; NaN stays."""
    mean = values.nanmean(0)
    spread = (values - mean).square().nanmean(0).sqrt()
    return (values - mean) / spread.clamp(min=1e-6)
