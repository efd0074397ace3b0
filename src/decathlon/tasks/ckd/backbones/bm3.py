"""BM3 (Zhou et al., WWW 2023): learns without negatives, by drawing dropped-out vectors of the same model together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from decathlon.randomness import generator
from decathlon.recommendation.propagation import Adjacency, edges, propagate
from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Vectors, table

if TYPE_CHECKING:
    from decathlon.tasks.ckd.training import Step


class BM3(Backbone):
    """LightGCN over ids, the items' ids once more beside it, and one linear predictor q for everything.

    With h_u and h_i the id vectors of a training pair, h_m the projected features of the item, x' a copy of x without
    gradient and with entries dropped, and c(a, b) = 1 - cos(a, b), the loss that takes the ranking loss's place is

        c(q(h_u), z_i') + c(q(z_i), h_u') + weight * sum_m [ c(q(h_m), h_i') + c(q(h_m), h_m') ],

    the last ones of the modalities that are factual. The triples' negatives have no part in it; the regulariser and
    methods that look at score differences use them as with every backbone.

    Published scores are <q(h_u), q(h_i)>: modalities act on the losses only, and no prediction would depend on which
    are counterfactual. Here z_i = h_i + sum_m h_m / |h_m| stands in the score and in the first two terms
    (**reconstructed**: what counterfactual distillation takes for BM3 could not be consulted). Of h_m the losses
    train the direction only, therefore its length is 1. As q is linear, a counterfactual modality adds the same to
    all items' scores of a user: a modality alone ranks by the id and that modality.

    Cosines know no lengths: nothing but score differences and the regulariser acts on those. A ``reg`` that suits the
    pairwise loss shrinks the vectors until a step turns them by far too much; 1e-4 and less is right here.

    Args:
        layers: of the LightGCN. dropout: share of a target's entries that are dropped, in training.
        weight: of the modalities' losses.
    """

    def __init__(
        self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64, layers: int = 2, dropout: float = 0.3,
        weight: float = 2.0,
    ) -> None:  # fmt: skip
        super().__init__(graph, features, dim)
        if layers < 1 or not 0 <= dropout < 1 or not weight >= 0:
            raise ValueError(
                f"layers={layers} must be at least 1, dropout={dropout} at least 0 and below 1, "
                f"weight={weight} not negative"
            )
        self.layers, self.dropout, self.weight = layers, dropout, weight
        self.user, self.item = table(graph.users, dim), table(graph.items, dim)
        self.adjacency = Adjacency(edges(graph.user, graph.item, graph.users), graph.users + graph.items)
        self.project = nn.ModuleDict({name: nn.Linear(values.shape[1], dim) for name, values in features.items()})
        self.predict = nn.Linear(dim, dim)

    def stream(self, name: str, factual: bool) -> Tensor:
        """Directions of the projected features: (ni, dim) or one row, of length 1."""
        return functional.normalize(self.project[name](self.features[name](factual)))

    def base(self) -> Vectors:
        mean = propagate(self.adjacency, torch.cat([self.user, self.item]), self.layers)
        return mean[: self.graph.users], mean[self.graph.users :] + self.item

    def fuse(self, base: Vectors, streams: Mapping[str, Tensor]) -> list[Vectors]:
        users, items = base
        return [(self.predict(users), self.predict(items + sum(streams.values())))]

    def ranking_loss(self, step: "Step", keep: Sequence[str] | None) -> Tensor:
        user, item, _ = step.triples
        kept = self.modalities if keep is None else keep
        users, items = step.views.base[0][user], step.views.base[1][item]
        streams = {name: step.views.stream(name, name in kept) for name in self.modalities}
        own = {name: rows[item] if name in kept else rows for name, rows in streams.items()}
        predicted_users, predicted_items = step.views.parts(keep)[0]
        loss = apart(predicted_users[user], self._target(items + sum(own.values()), step, "item"))
        loss = loss + apart(predicted_items[item], self._target(users, step, "user"))
        for name in kept:
            online = self.predict(own[name])
            to_id = apart(online, self._target(items, step, "item"))
            to_itself = apart(online, self._target(own[name], step, f"modality {name}"))
            loss = loss + self.weight * (to_id + to_itself)
        return loss

    def _target(self, vectors: Tensor, step: "Step", what: str) -> Tensor:
        """``vectors`` (B, dim) without gradient and, in training, with entries dropped: the same in every forward."""
        vectors = vectors.detach()
        if not self.training or not self.dropout:
            return vectors
        random = generator("bm3 dropout", what, step.seed, step.number)
        stays = torch.rand(vectors.shape, generator=random) >= self.dropout
        return vectors * stays.to(vectors) / (1 - self.dropout)


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Mean over rows of 1 - cosine."""
    return 1 - functional.cosine_similarity(one, other, dim=1).mean()
