"""What all methods are built on: GIN or GINE encoders of m members, edge extractors and classifiers, stacked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Copies, Gin, Linear

TASKS = ("multiclass", "binary", "regression")


@dataclass(frozen=True)
class Spec:
    """What the data offers.

    Attributes:
        nodes: how many real features a node has, or, of integer ones, how many values each has.
        edges: the same of edges; 0: none.
        outputs: C, how many numbers are predicted: classes, or labels of a binary task or a regression.
        task: ``multiclass``, ``binary`` or ``regression``.
        environments: how many the training set has; 0: they are not known.
    """

    nodes: int | tuple[int, ...]
    edges: int | tuple[int, ...]
    outputs: int
    task: str
    environments: int = 0


class Embeddings(nn.Module):
    """m sums of embeddings of integer features: (R, features) int64 to (m, R, width), drawn like Xavier's uniform."""

    first: Tensor

    def __init__(self, members: int, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        tables = [torch.cat([nn.init.xavier_uniform_(torch.empty(n, width)) for n in sizes]) for _ in range(members)]
        self.weight = nn.Parameter(torch.stack(tables))
        first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("first", first + torch.arange(members)[:, None, None] * sum(sizes), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        rows = codes.long() + self.first
        found = embedding_bag(rows.flatten(0, 1), self.weight.flatten(0, 1), mode="sum")
        return found.unflatten(0, rows.shape[:2])


class Project(nn.Module):
    """m linear maps of real features: (R, features) to (m, R, width)."""

    def __init__(self, members: int, inputs: int, width: int) -> None:
        super().__init__()
        self.members, self.linear = members, Linear(members, inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.to(self.linear.weight.dtype).expand(self.members, -1, -1))


def _features(members: int, kind: int | tuple[int, ...], width: int) -> nn.Module:
    return Project(members, kind, width) if isinstance(kind, int) else Embeddings(members, kind, width)


class Encoder(nn.Module):
    """m encoders, a batch to node vectors (m, N, width).

    Real node features without edge features go into the first layer as they are, all others through an embedding;
    edge features have one embedding for each layer.
    """

    def __init__(
        self, members: int, spec: Spec, width: int, layers: int, dropout: float, virtual_node: bool = False
    ) -> None:
        super().__init__()
        self.members, self.out_dim = members, width
        self.edges: nn.ModuleList | None = None
        self.nodes: nn.Module | None = None
        if isinstance(spec.nodes, tuple) or spec.edges:
            self.nodes = _features(members, spec.nodes, width)
        if spec.edges:
            self.edges = nn.ModuleList(_features(members, spec.edges, width) for _ in range(layers))
        inputs = width if self.nodes is not None or isinstance(spec.nodes, tuple) else spec.nodes
        self.gin = Gin(members, inputs, width, layers, dropout, virtual_node)

    def forward(self, batch: FeatureBatch, copies: Copies, weight: Tensor | None = None) -> Tensor:
        """Node vectors (m, N, width); ``weight`` (m, E) multiplies the messages."""
        if self.nodes is None:
            x = batch.x.to(next(self.gin.parameters()).dtype).expand(self.members, -1, -1)
        else:
            x = self.nodes(batch.x)
        attributes = None if self.edges is None else [layer(batch.edge_attr) for layer in self.edges]
        return self.gin(x, copies, weight, attributes)


class Extractor(nn.Module):
    """m edge extractors: l_uv = MLP([z_u; z_v]) of node vectors z, or MLP([z_u + e; z_v + e]) with edge vectors e.

    MLP = Linear(2d, d), ReLU, Linear(d, 1). The first layer is applied to nodes instead of edges:
    W [z_u; z_v] = W_1 z_u + W_2 z_v.

    Args:
        encoder: the members' own; or None, then ``forward`` gets node vectors.
    """

    def __init__(self, members: int, spec: Spec, width: int, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.members, self.encoder = members, encoder
        self.first, self.last = Linear(members, 2 * width, width), Linear(members, width, 1)
        self.edges = _features(members, spec.edges, width) if spec.edges else None

    def forward(self, batch: FeatureBatch, copies: Copies, nodes: Tensor | None = None) -> Tensor:
        """Logits (m, E), of each direction of an edge by itself."""
        if nodes is None:
            assert self.encoder is not None
            nodes = self.encoder(batch, copies)
        width = nodes.shape[2]
        source, target = self.first.weight[:, :width], self.first.weight[:, width:]
        hidden = copies.both_ends(torch.baddbmm(self.first.bias[:, None], nodes, source), nodes @ target)
        if self.edges is not None:
            hidden = hidden + self.edges(batch.edge_attr) @ (source + target)
        return self.last(hidden.relu())[..., 0]


class Classifier(nn.Module):
    """m classifiers: encoder with edge weights, mean over the nodes, Linear(d, C)."""

    def __init__(self, encoder: Encoder, outputs: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, Linear(encoder.members, encoder.out_dim, outputs)

    def represent(self, batch: FeatureBatch, copies: Copies, weight: Tensor | None = None) -> Tensor:
        """Graph vectors (m, B, d)."""
        return copies.mean_nodes(self.encoder(batch, copies, weight))

    def forward(self, batch: FeatureBatch, copies: Copies, weight: Tensor | None = None) -> Tensor:
        """Predictions (m, B, C)."""
        return self.head(self.represent(batch, copies, weight))


@dataclass(frozen=True)
class Backbone:
    """How large networks are, the same for every method.

    Args:
        spec: what the data offers. width: d. layers, dropout: of the convolutions. virtual_node: see ``stacked.Gin``.

    Raises:
        ValueError: a number is out of range.
    """

    spec: Spec
    width: int = 300
    layers: int = 3
    dropout: float = 0.5
    virtual_node: bool = False

    def __post_init__(self) -> None:
        if self.width < 1 or self.layers < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"the networks need width >= 1, layers >= 1 and 0 <= dropout < 1; "
                f"got {self.width}, {self.layers}, {self.dropout}"
            )

    def resized(self, layers: int | None = None, dropout: float | None = None) -> "Backbone":
        """The same with other layers and dropout, where they are given."""
        return replace(
            self, layers=self.layers if layers is None else layers, dropout=self.dropout if dropout is None else dropout
        )

    def encoder(self, members: int = 1) -> Encoder:
        """m encoders."""
        return Encoder(members, self.spec, self.width, self.layers, self.dropout, self.virtual_node)

    def extractor(self, members: int = 1, own_encoder: bool = True) -> Extractor:
        """m extractors, with encoders of their own or fed with node vectors."""
        return Extractor(members, self.spec, self.width, self.encoder(members) if own_encoder else None)

    def classifier(self, members: int = 1) -> Classifier:
        """m classifiers."""
        return Classifier(self.encoder(members), self.spec.outputs)
