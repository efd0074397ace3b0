"""Training of a collaborative model on click labels, once for each content of the data and of the options."""

import copy
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from decathlon.build import check_options
from decathlon.errors import ConfigError
from decathlon.orders import BatchOrder
from decathlon.progress import track
from decathlon.randomness import seeded
from decathlon.recommendation.ctr import auc
from decathlon.storage import cached_state
from decathlon.tasks.cora.collaborative.models import MODELS, Collaborative
from decathlon.tasks.cora.log import Log

log = logging.getLogger(__name__)
CHANCE = 0.52  # a best validation AUC below it: nothing is learnt yet
VERSION = 2  # of the training below: another one is another cache


def _fit_options(
    lr: float, weight_decay: float = 0.0, batch_size: int = 1024, epochs: int = 1000, patience: int = 20
) -> dict[str, Any]:
    return {"lr": lr, "weight_decay": weight_decay, "batch_size": batch_size, "epochs": epochs, "patience": patience}


FIT = set(inspect.signature(_fit_options).parameters)


def check_collaborative(name: str, options: Mapping[str, Any]) -> None:
    """Whether there is such a model, with such options.

    Raises:
        ConfigError: one line.
    """
    if name not in MODELS:
        raise ConfigError(f"collaborative={name} is unknown; choose {', '.join(MODELS)}")
    label = f"collaborative={name}"
    fit = {key: value for key, value in options.items() if key in FIT}
    check_options(MODELS[name], {k: v for k, v in options.items() if k not in FIT}, label, also={"rows": None})
    check_options(_fit_options, fit, label)
    for key, value in fit.items():
        if key != "weight_decay" and value <= 0:
            raise ConfigError(f"{label}: {key}={value} must be positive")


def trained(root: str | Path, rows: Log, name: str, options: Mapping[str, Any], seed: int = 0) -> Collaborative:
    """A frozen model of ``MODELS``, in eval mode; trained once per content of rows, options and seed.

    Binary cross-entropy of the pair's score on the training rows, Adam with its coupled weight decay (which takes
    tables of ids without a row to zero), the state with the best AUC on the validation rows.

    Args:
        options: of the model, and of the training: ``lr``, ``weight_decay``, ``batch_size``, ``epochs``, ``patience``
            (epochs without a better validation AUC before the end; three times as many while it is at chance).
    """
    check_collaborative(name, options)
    own = {key: value for key, value in options.items() if key not in FIT}
    fit = _fit_options(**{key: value for key, value in options.items() if key in FIT})
    model = _new(rows, name, own, seed)
    key = {
        "name": name, "options": own, "fit": fit, "seed": seed, "rows": rows.content, "version": VERSION,
        "torch": torch.__version__,
    }  # fmt: skip
    state = cached_state(root, f"cora-{name}", key, lambda: _train(model, rows, fit, seed, name))
    return _frozen(model, state["model"])


def of_state(rows: Log, name: str, options: Mapping[str, Any], state: Mapping[str, Any]) -> Collaborative:
    """A model of :func:`trained` from its ``state_dict``."""
    return _frozen(_new(rows, name, {key: value for key, value in options.items() if key not in FIT}, 0), state)


def _new(rows: Log, name: str, own: Mapping[str, Any], seed: int) -> Collaborative:
    with seeded("collaborative", name, seed):
        try:
            return MODELS[name](rows, **own)
        except ValueError as error:
            raise ConfigError(f"collaborative={name}: {error}") from error


def _frozen(model: Collaborative, state: Mapping[str, Any]) -> Collaborative:
    model.load_state_dict(state)
    model.requires_grad_(False).eval()
    model.settle()
    return model


def _train(model: Collaborative, rows: Log, fit: Mapping[str, Any], seed: int, name: str) -> dict[str, Any]:
    train, valid = rows.rows(0), rows.rows(1)
    order = BatchOrder(len(train), fit["batch_size"], seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=fit["lr"], weight_decay=fit["weight_decay"])
    labels = rows.labels.float()
    best, best_epoch, state = -1.0, -1, copy.deepcopy(model.state_dict())
    curve = []
    with seeded("collaborative training", name, seed):
        for epoch in track(range(fit["epochs"]), f"training {name}"):
            model.train()
            for part in train[order.epoch(epoch)].split(fit["batch_size"]):
                loss = F.binary_cross_entropy_with_logits(model(part), labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if not loss.isfinite():
                raise ConfigError(f"collaborative={name}: the loss is not finite in epoch {epoch}; lower its lr")
            curve.append(auc(model.scores(valid), rows.labels[valid]))
            if curve[-1] > best:
                best, best_epoch, state = curve[-1], epoch, copy.deepcopy(model.state_dict())
            # From tables drawn from N(0, 1) hundreds of epochs pass before anything is learnt.
            if epoch - best_epoch >= fit["patience"] * (3 if best < CHANCE else 1):
                break
    if best < CHANCE:
        log.warning(
            "WARNING: %s has learnt little: validation AUC %.3f; more patience, or a smaller init_std?", name, best
        )
    log.info("%s: validation AUC %.4f after epoch %d of %d", name, best, best_epoch + 1, len(curve))
    return {"model": state, "valid_auc": best, "epoch": best_epoch, "curve": curve}
