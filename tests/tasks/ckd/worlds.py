"""Small worlds for the tests."""

from typing import Any

import torch
from torch import Tensor

from decathlon.recommendation.interactions import ItemLists
from decathlon.tasks.ckd.backbones import Backbone, Graph, make_backbone
from decathlon.tasks.ckd.methods.base import Method
from decathlon.tasks.ckd.training import Settings, Training

USERS, ITEMS = 30, 24
MULTIMODAL = ("vbpr", "mmgcn", "grcn", "lattice", "freedom", "bm3", "egogcn")
ALL = (*MULTIMODAL, "mf", "lightgcn")
SETTINGS = Settings(lr=1e-2, reg=1e-3, batch_size=16, generic=40, epochs=4, evaluate_every=2, patience=3)


def lists(seed: int = 0, share: float = 0.2) -> ItemLists:
    random = torch.Generator().manual_seed(seed)
    taken = torch.rand(USERS, ITEMS, generator=random) < share
    taken[torch.arange(USERS), torch.randint(ITEMS, (USERS,), generator=random)] = True
    user, item = taken.nonzero().T
    return ItemLists.of(user, item, USERS, ITEMS)


def features(count: int = 2) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    widths = {"text": 10, "image": 7, "audio": 5}
    return {name: torch.randn(ITEMS, widths[name], generator=random) for name in list(widths)[:count]}


def backbone(
    name: str, count: int = 2, seed: int = 0, given: dict[str, Tensor] | None = None, **options: Any
) -> Backbone:
    torch.manual_seed(seed)
    made = make_backbone(name, Graph.of(lists()), given or features(count), **{"dim": 8, **options})
    return made.eval()


def trained(name: str, method: Method | None = None, steps: int = 6, **options: Any) -> tuple[Backbone, Training]:
    """A backbone after some steps, so that nothing is at its initial value."""
    model = backbone(name, **options)
    training = Training(model, method or Method(), lists(), lists(5, 0.05), SETTINGS, seed=0)
    optimizer = training.optimizer()
    for number in range(steps):
        training.step(number, optimizer)
    return model.eval(), training
