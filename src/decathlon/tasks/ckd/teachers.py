"""Frozen teachers as two matrices each, trained once and shared by every job that would train the same."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.progress import track
from decathlon.randomness import seeded
from decathlon.recommendation.interactions import ItemLists
from decathlon.storage import cached_state
from decathlon.tasks.ckd.backbones.base import Graph, Views, make_backbone
from decathlon.tasks.ckd.methods.base import Method
from decathlon.tasks.ckd.training import SELECTION, Patience, Settings, Teachers, Training, measure

log = logging.getLogger(__name__)

VERSION = 2
"""Raised when a change makes other teachers of the same settings."""
KINDS = ("uni", "joint", "random")


def make_teachers(
    kind: str,
    root: str | Path,
    spec: str | Mapping[str, Any],
    options: Mapping[str, Any],
    train: ItemLists,
    val: ItemLists,
    features: Mapping[str, Tensor],
    settings: Settings,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Teachers, dict[str, float]]:
    """The teacher of each modality, and its Recall@20 on the validation part.

    Args:
        kind: ``uni``: trained with that modality alone factual; ``joint``: one model with all modalities teaches
            each; ``random``: not trained, a control.
        root: data folder; the cache is beside it. spec, options: of the backbone.
        train, val: items of each user; the best of ``val`` is kept.
        seed: of weights and batches.

    Raises:
        DataError: a teacher's training diverged.
    """
    if kind not in KINDS:
        raise ValueError(f"teachers={kind} is unknown; choose {', '.join(KINDS)}")
    found: dict[str, tuple[Tensor, Tensor]] = {}
    recalls: dict[str, float] = {}
    for name in ("",) if kind == "joint" else tuple(features):
        keep = (name,) if name else None
        key = {
            "version": VERSION, "kind": kind, "keep": list(keep or ()), "spec": spec, "options": options, "seed": seed,
            "train": [train.start, train.item, train.items], "val": [val.start, val.item], "features": features,
            "settings": {name: value for name, value in vars(settings).items() if name != "generic"},
            "torch": torch.__version__, "device": torch.device(device).type,
        }  # fmt: skip

        def make(keep: tuple[str, ...] | None = keep, name: str = name) -> dict[str, Any]:
            graph = Graph.of(train, seed)
            return _train(kind, name, keep, spec, options, graph, train, val, features, settings, seed, device)

        state = cached_state(root, f"ckd-teacher-{kind}-{name or 'all'}", key, make)
        for modality in features if kind == "joint" else (name,):
            found[modality] = (state["users"].to(device), state["items"].to(device))
            recalls[modality] = float(state["recall"])
    return found, recalls


def _train(
    kind: str, name: str, keep: tuple[str, ...] | None, spec: str | Mapping[str, Any], options: Mapping[str, Any],
    graph: Graph, train: ItemLists, val: ItemLists, features: Mapping[str, Tensor], settings: Settings, seed: int,
    device: torch.device | str,
) -> dict[str, Any]:  # fmt: skip
    with seeded("ckd teacher", kind, name, seed):
        backbone = make_backbone(spec, graph, features, **options).to(device)
    method = Method(only=name or None)
    training = Training(backbone, method, train, val, settings, seed)

    @torch.no_grad()
    def vectors() -> tuple[Tensor, Tensor]:
        backbone.eval()
        users, items = Views(backbone)(keep)
        return users.clone(), items.clone()

    best = vectors()
    if kind == "random":
        return {"users": best[0].cpu(), "items": best[1].cpu(), "recall": 0.0, "epochs": 0}
    optimizer, patience, step = training.optimizer(), Patience(settings.patience), 0
    rounds = range(-(-settings.epochs // settings.evaluate_every))
    epochs = 0
    for _ in track(rounds, f"teacher {name or 'of all modalities'}"):
        for _ in range(min(settings.evaluate_every, settings.epochs - epochs)):
            for _ in range(training.steps_per_epoch):
                training.step(step, optimizer)
                step += 1
            epochs += 1
        now = vectors()
        if patience.see(measure(now, train, val)[SELECTION]):
            best = now
        if patience.ended:
            break
    if patience.best < 0:
        what = name or "all modalities"
        raise DataError(f"the teacher of {what} diverged: no validation was finite; lower lr={settings.lr}")
    log.info("teacher of %s: %d epochs, validation %s %.4f", name or "all", epochs, SELECTION, patience.best)
    return {"users": best[0].cpu(), "items": best[1].cpu(), "recall": patience.best, "epochs": epochs}
