"""VBPR (He and McAuley, AAAI 2016) in the form of the published code: one part for the id and one for each modality."""

from collections.abc import Mapping

from torch import Tensor, nn

from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Preferences, Vectors, table


class VBPR(Backbone):
    """Users [E_u | P_1 | ...], items [E_i | F_1 W_1 + b_1 | ...]: late fusion, D = dim * (1 + number of modalities)."""

    def __init__(self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64) -> None:
        super().__init__(graph, features, dim)
        self.user, self.item = table(graph.users, dim), table(graph.items, dim)
        self.preference = nn.ModuleDict({name: Preferences(graph.users, dim) for name in features})
        self.project = nn.ModuleDict({name: nn.Linear(values.shape[1], dim) for name, values in features.items()})

    def base(self) -> Vectors:
        return self.user, self.item

    def stream(self, name: str, factual: bool) -> Vectors:
        return self.preference[name](factual), self.project[name](self.features[name](factual))

    def fuse(self, base: Vectors, streams: Mapping[str, Vectors]) -> list[Vectors]:
        return [base, *streams.values()]
