"""What a finished job has trained, as mechanisms for one's own code."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from decathlon.errors import DataError
from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.priors import Prior


@dataclass(frozen=True)
class Trained:
    """The mechanisms of a job.

    Attributes:
        auction, prior: the market that they are for; of the stores alone where the method plays among them.
        seeds: of the stacked runs.
        mechanisms: one per seed; called as ``mechanism(auction, bids)``, in the market's own money.
    """

    auction: JointAuction
    prior: Prior
    seeds: list[int]
    mechanisms: list[Callable[..., Any]]


def load(folder: str | Path) -> Trained:
    """The mechanisms of the finished job in ``folder`` (``results/jregnet/<dataset>/<method>/<id>``).

    Raises:
        DataError: in one line, there is no such job, or it has not finished training.
    """
    from decathlon.tasks.jregnet.module import JointAuctionModule  # Lightning is loaded only here

    folder = Path(folder)
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        options = {key: value for key, value in config["module"].items() if key != "_target_"}
        weights = None
        if config["fit"]:
            best = json.loads((folder / "fit.json").read_text())["best"] or "last.ckpt"
            weights = torch.load(folder / "checkpoints" / best, map_location="cpu", weights_only=True)["state_dict"]
    except OSError as error:
        raise DataError(f"{folder} is no folder of a job that was trained: {error}") from error
    module = JointAuctionModule(**options)
    if weights is not None:
        module.load_state_dict(weights)
    method = module.method
    mechanisms = [method.mechanism(place) for place in range(len(method.seeds))]
    return Trained(method.auction, method.prior, method.seeds, mechanisms)
