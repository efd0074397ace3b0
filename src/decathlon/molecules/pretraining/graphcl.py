"""GraphCL (You et al. 2020): two augmented views of a molecule should have similar vectors."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from decathlon.graphs.packing import offsets
from decathlon.graphs.sums import sum_neighbours
from decathlon.molecules.batches import MoleculeBatch
from decathlon.molecules.encoders.gin import Gin
from decathlon.molecules.pretraining.masking import mask_atoms


def keep_bonds(batch: MoleculeBatch, keep: Tensor) -> MoleculeBatch:
    """The batch without the bond ends where ``keep`` (E,) is False; ``keep`` must be equal at both ends of a bond."""
    degree = torch.bincount(batch.owner[keep], minlength=len(batch.atoms))
    return replace(batch, neighbours=batch.neighbours[keep], bonds=batch.bonds[keep], edge_starts=offsets(degree))


def keep_atoms(batch: MoleculeBatch, keep: Tensor) -> MoleculeBatch:
    """The subgraphs of the atoms where ``keep`` (N,) is True."""
    left = keep_bonds(batch, keep[batch.owner] & keep[batch.neighbours])
    new_position = keep.long().cumsum(0) - 1
    atoms = torch.bincount(batch.graph[keep], minlength=len(batch))
    return replace(
        left,
        atoms=left.atoms[keep],
        neighbours=new_position[left.neighbours],
        edge_starts=offsets(left.edge_starts.diff()[keep]),
        node_starts=offsets(atoms),
    )


def lowest(priority: Tensor, batch: MoleculeBatch, share: float) -> Tensor:
    """(N,) bool: in each molecule the ceil(share * atoms) atoms of lowest ``priority`` (N,)."""
    molecule = batch.graph
    order = torch.argsort(priority)
    order = order[torch.argsort(molecule[order], stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - batch.node_starts[molecule]
    return rank < (batch.node_starts.diff() * share).ceil()[molecule]


def drop_atoms(batch: MoleculeBatch, share: float, generator: torch.Generator) -> MoleculeBatch:
    """Remove a random share of each molecule's atoms with their bonds."""
    noise = torch.rand(len(batch.atoms), generator=generator).to(batch.atoms.device)
    return keep_atoms(batch, lowest(noise, batch, 1 - share))


def drop_bonds(batch: MoleculeBatch, share: float, generator: torch.Generator) -> MoleculeBatch:
    """Remove a random share of the bonds. (No new bonds are drawn: they would be no chemistry.)"""
    owner = batch.owner
    pair = torch.minimum(owner, batch.neighbours) * len(batch.atoms) + torch.maximum(owner, batch.neighbours)
    bond = torch.unique(pair, return_inverse=True)[1]
    count = int(bond.max()) + 1 if len(bond) else 0
    keep = torch.rand(count, generator=generator).to(bond.device) >= share
    return keep_bonds(batch, keep[bond])


def subgraph(batch: MoleculeBatch, share: float, generator: torch.Generator) -> MoleculeBatch:
    """Keep a connected part of each molecule: the atoms nearest to a random one, all but ``share`` of them."""
    n = len(batch.atoms)
    noise = torch.rand(n, generator=generator).to(batch.atoms.device)
    reached = lowest(noise, batch, 1e-9).to(torch.float32)[:, None]
    distance = torch.where(reached[:, 0] > 0, 0.0, 1e6)
    for step in range(1, int(batch.node_starts.diff().max()) + 1):
        wider = (reached + sum_neighbours(reached, batch.neighbours, batch.edge_starts)).clamp(max=1)
        new = (wider > reached)[:, 0]
        if not new.any():
            break
        distance[new] = float(step)
        reached = wider
    return keep_atoms(batch, lowest(distance + 0.5 * noise, batch, 1 - share))


def mask_view(batch: MoleculeBatch, share: float, generator: torch.Generator) -> MoleculeBatch:
    """Hide a random share of the atoms' features."""
    return mask_atoms(batch, share, generator)[0]


VIEWS = (drop_atoms, drop_bonds, mask_view, subgraph)


class GraphCl(nn.Module):
    """NT-Xent between two views of each molecule, made by two augmentations that are drawn per batch.

    Args:
        encoder: to pretrain. share: how much of a molecule an augmentation changes. temperature: of NT-Xent.
    """

    def __init__(self, encoder: Gin, share: float = 0.2, temperature: float = 0.1) -> None:
        super().__init__()
        width = encoder.out_dim
        self.encoder = encoder
        self.share = share
        self.temperature = temperature
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, batch: MoleculeBatch, generator: torch.Generator) -> Tensor:
        """The loss of a batch (scalar)."""
        first, second = torch.randint(len(VIEWS), (2,), generator=generator).tolist()
        views = [VIEWS[k](batch, self.share, generator) for k in (first, second)]
        u, v = (nn.functional.normalize(self.projection(self.encoder(view)), dim=1) for view in views)
        z = torch.cat([u, v])
        similarity = (z @ z.T / self.temperature).fill_diagonal_(float("-inf"))
        n = len(batch)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        return nn.functional.cross_entropy(similarity, partner)
