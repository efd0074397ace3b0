"""From a pair of collaborative vectors to the features that its low-rank weights are made of (paper, query generator).

Every generator is a module with ``width``, the size of its features, and maps c = [user vector, item vector],
(B, user_dim + item_dim), to (B, width).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decathlon.build import check_options
from decathlon.errors import ConfigError

STD = 0.02  # of the initial weights, as in BERT
EPS = 1e-12  # of the layer norms, as in BERT


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=STD)
    nn.init.zeros_(layer.bias)
    return layer


class SelfAttention(nn.Module):
    """Attention among the queries, without a mask."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (_linear(width, width) for _ in range(3))
        self.output = _linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, queries, width) to the same shape."""
        rows, queries, width = x.shape
        q, k, v = (
            layer(x).view(rows, queries, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.output(mixed.transpose(1, 2).reshape(rows, queries, width))


class OneKeyAttention(nn.Module):
    """Attention of the queries over a single key, the pair c: its softmax is 1, so it is an affine map of c.

    ``query`` and ``key`` are the published layer's. They cannot change its output and are not trained; they are kept
    so that the parameters are the paper's.
    """

    def __init__(self, width: int, inputs: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = _linear(width, width).requires_grad_(False), _linear(inputs, width).requires_grad_(False)
        self.value, self.output = _linear(inputs, width), _linear(width, width)

    def forward(self, c: Tensor, queries: int) -> Tensor:
        """(rows, inputs) to (rows, queries, width), or (rows, 1, width) where it is the same for all queries."""
        value = self.value(c)[:, None]
        if self.training and self.dropout > 0:  # of the attention probabilities: each query loses whole heads
            kept = F.dropout(value.new_ones(len(c), queries, self.heads, 1), self.dropout)
            value = (value.view(len(c), 1, self.heads, -1) * kept).reshape(len(c), queries, -1)
        return self.output(value)


class Block(nn.Module):
    """Self-attention, attention over the pair, feed-forward; each followed by residual and norm."""

    def __init__(self, width: int, inputs: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.itself = SelfAttention(width, heads, dropout)
        self.pair = OneKeyAttention(width, inputs, heads, dropout)
        self.inner, self.outer = _linear(width, inner), _linear(inner, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (rows or 1, queries, width) and c (rows, inputs) to (rows, queries, width)."""
        x = self.norms[0](x + self.drop(self.itself(x)))
        seen = self.pair(c, x.shape[1])
        if self.training:
            seen = seen.expand(-1, x.shape[1], -1)
        x = self.norms[1](x + self.drop(seen))
        return self.norms[2](x + self.drop(self.outer(F.gelu(self.inner(x)))))


class QueryGenerator(nn.Module):
    """The paper's: learnt queries that attend to each other and to the pair; the mean of the queries (BLIP-2's branch).

    Args:
        user_dim, item_dim: sizes of the vectors.
        queries: how many. layers: blocks. heads: of the attentions. inner: width of the feed-forward layers; None:
            six times the width, as in the paper.
        dropout: of attention probabilities and of every output of a layer.

    Raises:
        ValueError: one line, for sizes that do not go together.
    """

    def __init__(
        self, user_dim: int, item_dim: int, queries: int = 4, layers: int = 8, heads: int = 8,
        inner: int | None = None, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width = user_dim + item_dim
        for name, size in {"queries": queries, "layers": layers, "heads": heads}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if self.width % heads:
            raise ValueError(f"user_dim + item_dim = {self.width} is no multiple of heads={heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} of the generator must be from 0 to below 1")
        self.queries = nn.Parameter(torch.randn(1, queries, self.width) * STD)
        self.norm, self.drop = nn.LayerNorm(self.width, eps=EPS), nn.Dropout(dropout)
        inner = 6 * self.width if inner is None else inner
        self.blocks = nn.ModuleList(Block(self.width, self.width, heads, inner, dropout) for _ in range(layers))

    def forward(self, c: Tensor) -> Tensor:
        """(rows, user_dim + item_dim) to (rows, width)."""
        x = self.drop(self.norm(self.queries))
        for block in self.blocks:
            x = block(x, c)
        return x.mean(dim=1)


class MLPGenerator(nn.Module):
    """A hidden layer in place of the queries.

    Args:
        hidden: its width; None: four times that of the pair.
    """

    def __init__(self, user_dim: int, item_dim: int, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        inputs = user_dim + item_dim
        self.width = 4 * inputs if hidden is None else hidden
        if self.width < 1:
            raise ValueError(f"hidden={hidden} must be at least 1")
        self.layers = nn.Sequential(nn.Linear(inputs, self.width), nn.GELU(), nn.Dropout(dropout))

    def forward(self, c: Tensor) -> Tensor:
        """(rows, user_dim + item_dim) to (rows, width)."""
        return self.layers(c)


class LinearGenerator(nn.Module):
    """The pair itself: the weights are an affine map of it."""

    def __init__(self, user_dim: int, item_dim: int) -> None:
        super().__init__()
        self.width = user_dim + item_dim

    def forward(self, c: Tensor) -> Tensor:
        """(rows, user_dim + item_dim), as it is."""
        return c


GENERATORS: dict[str, Any] = {"qformer": QueryGenerator, "mlp": MLPGenerator, "linear": LinearGenerator}


def make_generator(name: str, user_dim: int, item_dim: int, **options: Any) -> Any:
    """A generator by its name: ``qformer``, ``mlp`` or ``linear``.

    Raises:
        ConfigError: one line, for an unknown name or option, or a value that it refuses.
    """
    if name not in GENERATORS:
        raise ConfigError(f"generator={name} is unknown; choose {', '.join(GENERATORS)}")
    check_options(GENERATORS[name], options, f"generator={name}", given=2)
    try:
        return GENERATORS[name](user_dim, item_dim, **options)
    except ValueError as error:
        raise ConfigError(f"generator={name}: {error}") from error
