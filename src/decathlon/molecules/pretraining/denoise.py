"""Distance denoising for 3D encoders, in the spirit of GeoSSL (Liu et al. 2022; reconstructed from its description)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from decathlon.graphs.packing import pairs_within
from decathlon.molecules.batches import GeometryBatch
from decathlon.molecules.encoders.painn import Painn


class DistanceDenoising(nn.Module):
    """Shake a molecule's atoms and predict by how much each distance within the cutoff was changed.

    Each molecule gets noise of one of the standard deviations sigma; the loss is the mean squared error of
    (d_clean - d_noisy) / sigma, predicted from q_i + q_j, q_i * q_j and the radial basis of d_noisy.

    Args:
        encoder: to pretrain. noise: standard deviations in Ångström.
    """

    def __init__(self, encoder: Painn, noise: Sequence[float] = (0.05, 0.1, 0.3)) -> None:
        super().__init__()
        width = encoder.out_dim
        self.encoder = encoder
        self.noise = tuple(noise)
        basis = len(encoder.radial.centres)
        self.head = nn.Sequential(nn.Linear(2 * width + basis, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, batch: GeometryBatch, generator: torch.Generator) -> Tensor:
        """The loss of a batch (scalar)."""
        device = batch.positions.device
        level = torch.randint(len(self.noise), (len(batch),), generator=generator)
        sigma = torch.tensor(self.noise)[level].to(device)[batch.graph]
        shaken = batch.positions + sigma[:, None] * torch.randn(batch.positions.shape, generator=generator).to(device)
        q, _ = self.encoder.encode_atoms(replace(batch, positions=shaken))
        i, j = pairs_within(batch.node_starts)
        once = i < j
        i, j = i[once], j[once]
        clean = (batch.positions[i] - batch.positions[j]).norm(dim=1)
        near = clean < self.encoder.radial.cutoff
        i, j, clean = i[near], j[near], clean[near]
        noisy = (shaken[i] - shaken[j]).norm(dim=1)
        basis, _ = self.encoder.radial(noisy)
        predicted = self.head(torch.cat([q[i] + q[j], q[i] * q[j], basis], dim=1))[:, 0]
        return (predicted - (clean - noisy) / sigma[i]).square().mean()
