"""What every backbone is: ``forward(keep)`` gives vectors of users and items, other modalities counterfactual."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.recommendation.interactions import ItemLists

if TYPE_CHECKING:
    from decathlon.tasks.ckd.training import Step

BACKBONES = {
    "vbpr": "decathlon.tasks.ckd.backbones.vbpr.VBPR",
    "mmgcn": "decathlon.tasks.ckd.backbones.mmgcn.MMGCN",
    "grcn": "decathlon.tasks.ckd.backbones.grcn.GRCN",
    "lattice": "decathlon.tasks.ckd.backbones.lattice.LATTICE",
    "freedom": "decathlon.tasks.ckd.backbones.freedom.FREEDOM",
    "bm3": "decathlon.tasks.ckd.backbones.bm3.BM3",
    "egogcn": "decathlon.tasks.ckd.backbones.egogcn.EgoGCN",
    "mf": "decathlon.tasks.ckd.backbones.ids.MF",
    "lightgcn": "decathlon.tasks.ckd.backbones.ids.LightGCN",
}
Vectors = tuple[Tensor, Tensor]
"""Of users (nu, D) and items (ni, D); a score is an inner product. One row (1, D): the same for all of them."""


@dataclass(frozen=True)
class Graph:
    """The training interactions that a backbone may look at.

    Args:
        user, item: (n,) int64, each pair once. users, items: how many there are. seed: of what a backbone draws anew
            in every epoch.
    """

    user: Tensor
    item: Tensor
    users: int
    items: int
    seed: int = 0

    @classmethod
    def of(cls, lists: ItemLists, seed: int = 0) -> "Graph":
        """Of the training items of each user."""
        return cls(lists.user, lists.item, lists.users, lists.items, seed)


class Features(nn.Module):
    """The frozen features of one modality, and their mean over all items: what every item has when counterfactual.

    Both are no part of a checkpoint. All models of a job share one copy of ``values``.
    """

    values: Tensor
    mean: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values, persistent=False)
        # In float64, so that it is the same number whatever the order of the items; piece by piece, to save memory.
        total = torch.stack([piece.double().sum(0) for piece in values.split(1024)]).sum(0)
        self.register_buffer("mean", (total / len(values)).to(values.dtype), persistent=False)

    def forward(self, factual: bool) -> Tensor:
        """(ni, d), or the mean as one row (1, d)."""
        return self.values if factual else self.mean[None]


class Backbone(nn.Module):
    """Users and items as vectors.

    A subclass computes what depends on one modality alone in :meth:`stream`, factual or counterfactual, and everything
    else in :meth:`fuse`, whose parts stand side by side in the vectors. So forwards that keep different modalities
    share what they can (:class:`Views`).

    A modality is counterfactual when every item has the mean of its features and every user the mean of the users'
    preferences for it; weights are what they are, and gradients flow.

    Args:
        graph: training interactions.
        features: {name: (ni, d)} of each modality.
        dim: width of every part.
    """

    multimodal = True

    def __init__(self, graph: Graph, features: Mapping[str, Tensor], dim: int = 64) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim={dim} must be at least 1")
        if self.multimodal and not features:
            raise ValueError("there are no features; choose backbone=mf or lightgcn, which need none")
        self.graph, self.dim = graph, dim
        self.modalities = tuple(features) if self.multimodal else ()
        self.features = nn.ModuleDict({name: Features(features[name]) for name in self.modalities})

    def stream(self, name: str, factual: bool) -> Any:
        """What depends on one modality alone."""
        raise NotImplementedError

    def base(self) -> Any:
        """What depends on no modality; computed once for all forwards of a step."""
        return None

    def fuse(self, base: Any, streams: Mapping[str, Any]) -> list[Vectors]:
        """Parts of users and items, from :meth:`base` and the streams of all modalities; scores add up."""
        raise NotImplementedError

    def forward(self, keep: Iterable[str] | None = None) -> Vectors:
        """Users (nu, D) and items (ni, D) with all modalities but ``keep`` counterfactual; None keeps all.

        Raises:
            ValueError: an unknown modality.
        """
        return Views(self)(keep)

    def begin_epoch(self, epoch: int) -> None:
        """Make anew, before the first step of an epoch, what lasts for that epoch."""

    def resume_epoch(self, epoch: int) -> None:
        """Make again, in a run that goes on inside an epoch, what :meth:`begin_epoch` made and no checkpoint holds."""

    def ranking_loss(self, step: "Step", keep: Sequence[str] | None) -> Tensor:
        """What training makes small, with all modalities but ``keep`` counterfactual; None keeps all.

        Here the pairwise ranking loss (BPR), the mean of -log sigmoid of the score differences. A backbone with a loss
        of its own in its place overrides it; what it draws is named by the step's seed and number.
        """
        return -functional.logsigmoid(step.difference(keep)).mean()

    def extra_loss(self, step: "Step", keep: Sequence[str] | None) -> Tensor | None:
        """A loss of the backbone's own beside the ranking loss, or None; nothing of what is counterfactual is in it."""
        return None

    def own(self, name: str) -> list[nn.Parameter]:
        """The parameters that belong to one modality alone: those of the modules that are kept by its name."""
        groups = [child for child in self.children() if isinstance(child, nn.ModuleDict) and name in child]
        return [parameter for group in groups for parameter in group[name].parameters()]

    def shared(self) -> list[nn.Parameter]:
        """The parameters that belong to no modality alone."""
        single = {id(p) for name in self.modalities for p in self.own(name)}
        return [p for p in self.parameters() if id(p) not in single]


class Views:
    """The outputs of a backbone in one step for any sets of kept modalities; each stream is computed once."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._base: Any = None
        self._streams: dict[tuple[str, bool], Any] = {}
        self._parts: dict[frozenset[str], list[Vectors]] = {}

    def __call__(self, keep: Iterable[str] | None = None) -> Vectors:
        """Users (nu, D) and items (ni, D) with all but ``keep`` counterfactual; None keeps all."""
        graph, parts = self.backbone.graph, self.parts(keep)
        users = torch.cat([part[0].expand(graph.users, -1) for part in parts], 1)
        return users, torch.cat([part[1].expand(graph.items, -1) for part in parts], 1)

    def parts(self, keep: Iterable[str] | None = None) -> list[Vectors]:
        """The same in parts, which may be one row each. Forwards have those parts in common that do not differ."""
        names = self.backbone.modalities
        kept = frozenset(names if keep is None else keep)
        unknown = kept - set(names)
        if unknown:
            raise ValueError(f"{min(unknown)} is no modality of this model; it has {', '.join(names) or 'none'}")
        base = self.base
        if kept not in self._parts:
            streams = {name: self.stream(name, name in kept) for name in names}
            self._parts[kept] = self.backbone.fuse(base, streams)
        return self._parts[kept]

    @property
    def base(self) -> Any:
        """The backbone's :meth:`~Backbone.base`."""
        if self._base is None:
            self._base = self.backbone.base()
        return self._base

    def stream(self, name: str, factual: bool) -> Any:
        """The backbone's :meth:`~Backbone.stream`."""
        key = (name, factual)
        if key not in self._streams:
            self._streams[key] = self.backbone.stream(name, factual)
        return self._streams[key]


class Preferences(nn.Module):
    """A vector of each user for one modality, (users, dim), drawn by Xavier's rule.

    Args:
        frozen: never trained, as in the published code of MMGCN. They are kept in checkpoints all the same.
    """

    def __init__(self, users: int, dim: int, frozen: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(users, dim)), requires_grad=not frozen)

    def forward(self, factual: bool) -> Tensor:
        """(users, dim), or their mean as one row (1, dim)."""
        return self.weight if factual else self.weight.mean(0, keepdim=True)


def table(count: int, dim: int) -> nn.Parameter:
    """An embedding table (count, dim) drawn by Xavier's rule."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(count, dim)))


def make_backbone(
    spec: str | Mapping[str, Any], graph: Graph, features: Mapping[str, Tensor], **options: Any
) -> Backbone:
    """A backbone from its name, or from a mapping with ``name`` (or ``class``) and options.

    Raises:
        ConfigError: in one line, an unknown name or option.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(given.get("name"))
    if "class" not in given:
        if name not in BACKBONES:
            raise ConfigError(f"backbone={name} is unknown; choose {', '.join(BACKBONES)}")
        given["class"] = BACKBONES[name]
    found = build({**given, **options}, graph, features, called="backbone")
    if not isinstance(found, Backbone):
        raise ConfigError(f"backbone={name}: {given['class']} is no decathlon.tasks.ckd.backbones.Backbone")
    return found
