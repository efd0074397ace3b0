"""Models of who likes what by ids alone. A pair's score is the dot product of its two vectors.

Index 0 of no table is padding here: users and items are numbered from 0, and those without a training row keep what
weight decay leaves of their start.
"""

from typing import Any

import torch
from torch import Tensor, nn

from decathlon.recommendation.propagation import Adjacency, edges, propagate
from decathlon.tasks.cora.log import Log


class Collaborative(nn.Module):
    """Vectors of the users and items of a log's rows.

    Args:
        rows: the log; training reads its training part only.
        size: of the vectors. init_std: of the normal initial tables.
    """

    def __init__(self, rows: Log, size: int = 64, init_std: float = 0.1) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size={size} of the vectors must be at least 1")
        self.log, self.size = rows, size
        self.item = nn.Embedding(rows.item_count, size)
        nn.init.normal_(self.item.weight, std=init_std)

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the users and of the items of rows, (m, size) each."""
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        """Scores of rows, (m,)."""
        user, item = self.vectors(rows)
        return (user * item).sum(-1)

    @torch.no_grad()
    def frozen(self, rows: Tensor, batch: int = 4096) -> tuple[Tensor, Tensor]:
        """``vectors`` in eval mode and without gradients, however many rows there are."""
        self.eval()
        parts = [self.vectors(part) for part in rows.split(batch)] or [self.vectors(rows)]
        return torch.cat([user for user, _ in parts]), torch.cat([item for _, item in parts])

    def settle(self) -> None:
        """Called when training is over: what all rows share may be computed once."""

    @torch.no_grad()
    def scores(self, rows: Tensor) -> Tensor:
        """Scores of rows in eval mode, (m,)."""
        user, item = self.frozen(rows)
        return (user * item).sum(-1)


class MF(Collaborative):
    """Matrix factorisation without biases."""

    def __init__(self, rows: Log, size: int = 64, init_std: float = 0.1) -> None:
        super().__init__(rows, size, init_std)
        self.user = nn.Embedding(rows.user_count, size)
        nn.init.normal_(self.user.weight, std=init_std)

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.user(self.log.users[rows]), self.item(self.log.items[rows])


class BinaryMF(MF):
    """BinLLM's codes: sign(tanh(W e)) of a shared linear map W, with the gradient of tanh (straight through).

    Args:
        bits: of a code; the score is the scaled dot product of two codes.
    """

    def __init__(self, rows: Log, size: int = 64, init_std: float = 0.1, bits: int = 32) -> None:
        super().__init__(rows, size, init_std)
        if bits < 1:
            raise ValueError(f"bits={bits} must be at least 1")
        self.code = nn.Linear(size, bits)
        self.scale = nn.Parameter(torch.tensor(bits**-0.5))
        self.size = bits

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        user, item = (torch.tanh(self.code(vectors)) for vectors in super().vectors(rows))
        return self._sign(user), self._sign(item)

    @staticmethod
    def _sign(soft: Tensor) -> Tensor:
        hard = torch.where(soft >= 0, 1.0, -1.0)
        return hard.detach() + soft - soft.detach()

    def forward(self, rows: Tensor) -> Tensor:
        return self.scale * super().forward(rows)


class LightGCN(MF):
    """Vectors averaged over propagations on the graph of positive training rows.

    Args:
        layers: propagations.
    """

    def __init__(self, rows: Log, size: int = 64, init_std: float = 0.1, layers: int = 2) -> None:
        super().__init__(rows, size, init_std)
        if layers < 1:
            raise ValueError(f"layers={layers} must be at least 1")
        self.layers = layers
        liked = rows.rows(0)
        liked = liked[rows.labels[liked] == 1]
        graph = edges(rows.users[liked], rows.items[liked], rows.user_count)
        self.graph = Adjacency(graph, rows.user_count + rows.item_count)
        self._kept: Tensor | None = None

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        both = self._kept if self._kept is not None and not self.training else self._propagated()
        return both[self.log.users[rows]], both[self.log.items[rows] + self.log.user_count]

    def _propagated(self) -> Tensor:
        return propagate(self.graph, torch.cat([self.user.weight, self.item.weight]), self.layers)

    @torch.no_grad()
    def frozen(self, rows: Tensor, batch: int = 4096) -> tuple[Tensor, Tensor]:
        self.eval()
        if self._kept is not None:
            return super().frozen(rows, batch)
        self._kept = self._propagated()  # once for all rows
        try:
            return super().frozen(rows, batch)
        finally:
            self._kept = None

    @torch.no_grad()
    def settle(self) -> None:
        self.eval()
        self._kept = self._propagated()


class SASRec(Collaborative):
    """Self-attention over a row's earlier positive items; the user's vector is the output at the last of them.

    Args:
        layers, heads: of the encoder. longest: how many of the latest items it reads. dropout: of the encoder.
    """

    def __init__(
        self, rows: Log, size: int = 64, init_std: float = 0.02, layers: int = 2, heads: int = 4, longest: int = 25,
        dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__(rows, size, init_std)
        if size % heads:
            raise ValueError(f"size={size} is no multiple of heads={heads}")
        self.longest = longest
        self.start = nn.Parameter(torch.zeros(size))  # before the history, so that no row has an empty one
        self.place = nn.Embedding(longest + 1, size)
        nn.init.normal_(self.start, std=init_std)
        nn.init.normal_(self.place.weight, std=init_std)
        layer: Any = nn.TransformerEncoderLayer(size, heads, size, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(size), enable_nested_tensor=False)
        self.drop = nn.Dropout(dropout)

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        items, mask = self.log.histories.last(rows, self.longest)
        width = int(mask.sum(1).max()) if len(rows) else 0
        items, mask = items[:, :width], mask[:, :width]
        x = torch.cat([self.start.expand(len(rows), 1, -1), self.item(items)], dim=1)
        x = self.drop(x + self.place.weight[: width + 1])
        causal = torch.ones(width + 1, width + 1, dtype=torch.bool, device=x.device).triu(1)
        out = self.encoder(x, mask=causal)  # what is padded comes after what counts
        return out[torch.arange(len(rows)), mask.sum(1)], self.item(self.log.items[rows])


MODELS: dict[str, type[Collaborative]] = {"mf": MF, "lgcn": LightGCN, "sas": SASRec, "binary": BinaryMF}
