"""PaiNN: an equivariant network on atoms in space (Schütt et al. 2021, in the GeoSSL/Geom3D recipe)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from decathlon.graphs.packing import offsets, pairs_within
from decathlon.graphs.sums import sum_segments
from decathlon.molecules.batches import GeometryBatch
from decathlon.molecules.encoders.base import Encoder

ATOMIC_NUMBERS = 119


class RadialBasis(nn.Module):
    """Gaussian basis on [0, cutoff] and a cosine cutoff.

    Args:
        count: number of basis functions. cutoff: in Ångström.
    """

    centres: Tensor

    def __init__(self, count: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("centres", torch.linspace(0, cutoff, count), persistent=False)
        self.gamma = 0.5 / (cutoff / (count - 1)) ** 2

    def forward(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (P,) to the basis (P, count) and the cutoff (P, 1), which is 0 from ``cutoff`` on."""
        basis = torch.exp(-self.gamma * (distance[:, None] - self.centres) ** 2)
        inside = 0.5 * (torch.cos(distance * (math.pi / self.cutoff)) + 1) * (distance < self.cutoff)
        return basis, inside[:, None]


class Edges(NamedTuple):
    """Pairs of atoms, sorted by the first: those of atom i are ``starts[i]`` to ``starts[i + 1]``.

    ``j`` (P,) is the second atom, ``unit`` (P, 3) points from the first to it, ``basis`` (P, count) and ``inside``
    (P, 1) are functions of their distance.
    """

    j: Tensor
    starts: Tensor
    unit: Tensor
    basis: Tensor
    inside: Tensor


class PainnBlock(nn.Module):
    """One message and one update step on scalars q (N, F) and vectors v (N, 3, F)."""

    def __init__(self, width: int, basis: int) -> None:
        super().__init__()
        self.message = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.filter = nn.Linear(basis, 3 * width)
        self.mix = nn.Linear(width, 2 * width, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, q: Tensor, v: Tensor | None, edges: Edges) -> tuple[Tensor, Tensor]:
        phi = self.message(q).index_select(0, edges.j)
        a, b, c = (phi * (self.filter(edges.basis) * edges.inside)).chunk(3, dim=1)
        q = q + sum_segments(a, edges.starts)
        message = b[:, None] * edges.unit[:, :, None]
        if v is None:  # all vectors are zero before the first block
            v = sum_segments(message.flatten(1), edges.starts).view(len(q), 3, -1)
        else:
            message = message + c[:, None] * v.index_select(0, edges.j)
            v = v + sum_segments(message.flatten(1), edges.starts).view_as(v)
        mixed, other = self.mix(v).chunk(2, dim=2)
        norm = (mixed.square().sum(1) + 1e-8).sqrt()
        a, b, c = self.update(torch.cat([q, norm], dim=1)).chunk(3, dim=1)
        q = q + a + c * (mixed * other).sum(1)
        v = v + b[:, None] * other
        return q, v


class Painn(Encoder):
    """PaiNN encoder: scalars summed over each molecule, with a two-layer output network per atom.

    Args:
        width: F. layers: number of blocks. basis: number of radial functions. cutoff: in Ångström.
        dropout: accepted for symmetry with the other encoders; PaiNN has none.
    """

    inputs = "geometry"

    def __init__(
        self, width: int = 128, layers: int = 3, basis: int = 20, cutoff: float = 5.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if layers < 1 or width < 1 or basis < 2 or cutoff <= 0:
            raise ValueError(f"PaiNN needs layers, width >= 1, basis >= 2, cutoff > 0; got {layers}, {width}, {basis}")
        if dropout:
            raise ValueError("PaiNN has no dropout; leave dropout at 0")
        self.out_dim = width
        self.number = nn.Embedding(ATOMIC_NUMBERS, width)
        self.radial = RadialBasis(basis, cutoff)
        self.blocks = nn.ModuleList(PainnBlock(width, basis) for _ in range(layers))
        self.output = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def embed(self, batch: GeometryBatch) -> Tensor:
        """Continuous inputs: the embedding of each atomic number, (N, F)."""
        return self.number(batch.numbers)

    def encode_atoms(self, batch: GeometryBatch, embedded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scalars (N, F), invariant, and vectors (N, 3, F), which turn with the molecule."""
        q = self.embed(batch) if embedded is None else embedded
        v: Tensor | None = None
        edges = self.edges(batch)
        for block in self.blocks:
            q, v = block(q, v, edges)
        assert v is not None
        return q, v

    def edges(self, batch: GeometryBatch) -> Edges:
        """The pairs of different atoms of one molecule that are nearer than the cutoff."""
        i, j = pairs_within(batch.node_starts)
        difference = batch.positions[j] - batch.positions[i]
        distance = difference.norm(dim=1)
        near = distance < self.radial.cutoff
        i, j, difference, distance = i[near], j[near], difference[near], distance[near]
        basis, inside = self.radial(distance)
        starts = offsets(torch.bincount(i, minlength=len(batch.numbers)))
        return Edges(j, starts, difference / distance.clamp(min=1e-6)[:, None], basis, inside)

    def encode(self, embedded: Tensor, batch: GeometryBatch) -> Tensor:
        """Molecule vectors (B, F) from continuous inputs (N, F)."""
        q, _ = self.encode_atoms(batch, embedded)
        return sum_segments(self.output(q), batch.node_starts)
