"""The graph isomorphism network of the "strategies for pre-training GNNs" family, on packed batches."""

import torch
from torch import Tensor, nn

from decathlon.graphs.dropout import Dropout
from decathlon.graphs.norm import BatchNorm
from decathlon.graphs.sums import mean_segments, sum_neighbours
from decathlon.molecules.alphabet import ATOM_ROWS, BOND_DIRECTIONS, BOND_TYPES, CHIRAL_TAGS
from decathlon.molecules.batches import MoleculeBatch
from decathlon.molecules.encoders.base import Encoder


class GinLayer(nn.Module):
    """h_v <- BN(W2 ReLU(W1 a_v + b1) + b2), a_v = sum over neighbours u and v itself of (h_u + e1[type] + e2[dir]).

    Nothing is applied to a message before it is summed, so the bonds' part of a_v depends only on how many bonds of
    each of the 18 kinds the atom has: it is one (N, 18) x (18, D) product, and the atoms' part is one sparse sum. No
    array of messages is formed. (torch_geometric's ``GINEConv`` differs: it applies ReLU to each message.)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bond_type = nn.Embedding(BOND_TYPES, width)
        self.bond_direction = nn.Embedding(BOND_DIRECTIONS, width)
        nn.init.xavier_uniform_(self.bond_type.weight)
        nn.init.xavier_uniform_(self.bond_direction.weight)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.norm = BatchNorm(width)

    def forward(self, h: Tensor, batch: MoleculeBatch) -> Tensor:
        """Atom vectors (N, D) to (N, D)."""
        table = (self.bond_type.weight[:, None] + self.bond_direction.weight).flatten(0, 1)
        total = h + sum_neighbours(h, batch.neighbours, batch.edge_starts)
        return self.norm(self.mlp(torch.addmm(total, batch.bond_kinds.to(h.dtype), table)))


class Gin(Encoder):
    """GIN encoder: last layer's atoms, mean over each molecule.

    5 layers of width 300 have 1,857,900 parameters, 3 of width 64 have 59,712.

    Args:
        layers: number of message-passing layers. width: of the atom vectors.
        dropout: after every layer.
    """

    inputs = "graph"

    def __init__(self, layers: int = 5, width: int = 300, dropout: float = 0.5) -> None:
        super().__init__()
        if layers < 1 or width < 1 or not 0 <= dropout < 1:
            raise ValueError(f"GIN needs layers >= 1, width >= 1, 0 <= dropout < 1; got {layers}, {width}, {dropout}")
        self.out_dim = width
        self.element = nn.Embedding(ATOM_ROWS, width)
        self.chirality = nn.Embedding(CHIRAL_TAGS, width)
        nn.init.xavier_uniform_(self.element.weight)
        nn.init.xavier_uniform_(self.chirality.weight)
        self.layers = nn.ModuleList(GinLayer(width) for _ in range(layers))
        self.dropout = Dropout(dropout)

    def embed(self, batch: MoleculeBatch) -> Tensor:
        """Continuous inputs: the sum of the element's and the chirality tag's embedding, (N, D)."""
        return self.element(batch.atoms[:, 0]) + self.chirality(batch.atoms[:, 1])

    def encode_atoms(self, batch: MoleculeBatch, embedded: Tensor | None = None) -> Tensor:
        """Atom vectors (N, D), from ``embed(batch)`` or what is given in its place."""
        h = self.embed(batch) if embedded is None else embedded
        for i, layer in enumerate(self.layers):
            h = layer(h, batch)
            if i < len(self.layers) - 1:
                h = h.relu()
            h = self.dropout(h)
        return h

    def encode(self, embedded: Tensor, batch: MoleculeBatch) -> Tensor:
        """Molecule vectors (B, D) from continuous inputs (N, D)."""
        return mean_segments(self.encode_atoms(batch, embedded), batch.node_starts)
