"""What a finished job has trained, as mechanisms for one's own code."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from decathlon import trained
from decathlon.errors import DataError
from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.logs import AuctionLog
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.regret import with_prior


@dataclass(frozen=True)
class Trained:
    """The mechanisms of a job.

    Attributes:
        auction, prior: the market that they are for; of the stores alone where the method plays among them.
        seeds: of the stacked runs.
        mechanisms: one per seed; called as ``mechanism(auction, bids)``, in the market's own money.
        bidders: names, stores first: those of the log, or ``store0``, ``brand0``, …
    """

    auction: JointAuction
    prior: Prior
    seeds: list[int]
    mechanisms: list[Callable[..., Any]]
    bidders: list[str] = field(default_factory=list)

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with a column of bids for each bidder: ``clicks <bidder>``, ``payment <bidder>`` of the first run."""
        return trained.from_numbers(rows, self.bidders, self._row_values)

    @torch.no_grad()
    def _row_values(self, numbers: list[list[float]]) -> list[dict[str, Any] | str]:
        bids = torch.tensor(numbers, dtype=torch.float32)
        negative = (bids < 0).any(1)
        mechanism = with_prior(self.mechanisms[0], self.prior)
        outcome = mechanism(self.auction, bids.clamp_min(0), present=None)
        clicks = self.auction.clicks(outcome.allocation)
        found: list[dict[str, Any] | str] = []
        for bad, of_clicks, paid in zip(negative.tolist(), clicks.tolist(), outcome.payments.tolist()):
            named = {f"clicks {name}": value for name, value in zip(self.bidders, of_clicks)}
            named |= {f"payment {name}": value for name, value in zip(self.bidders, paid)}
            found.append("a bid is negative" if bad else named)
        return found


def load(folder: str | Path) -> Trained:
    """The mechanisms of the finished job in ``folder`` (``results/jregnet/<dataset>/<method>/<id>``).

    Raises:
        DataError: in one line, there is no such job, or it has not finished training.
    """
    folder = Path(folder)
    if (folder / trained.FOLDER / trained.JOB).is_file() or (folder / trained.JOB).is_file():
        return trained.load(folder)
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        weights = None
        if config["fit"]:
            best = json.loads((folder / "fit.json").read_text())["best"] or "last.ckpt"
            weights = torch.load(folder / "checkpoints" / best, map_location="cpu", weights_only=True)["state_dict"]
    except OSError as error:
        raise DataError(f"{folder} is no folder of a job that was trained: {error}") from error
    return _made(config, weights, None)


def load_trained(folder: Path, config: Mapping[str, Any]) -> Trained:
    """What ``JointAuctionModule.export`` has written: no file of the market is read again."""
    state = trained.state_of(folder)
    kept, log = state["log"], None
    if kept is not None:
        bundles = tuple((store, brand) for store, brand in kept["bundles"])
        log = AuctionLog(tuple(kept["stores"]), tuple(kept["brands"]), bundles, kept["values"], kept["seen"])
    return _made(config, state["weights"], log)


def _made(config: Mapping[str, Any], weights: Mapping[str, Any] | None, log: AuctionLog | None) -> Trained:
    from decathlon.tasks.jregnet.module import JointAuctionModule  # Lightning is loaded only here

    options = {key: value for key, value in config["module"].items() if key != "_target_"}
    if log is not None:
        options["market"] = {**options["market"], "log": log}
    module = JointAuctionModule(**options)
    if weights is not None:
        module.load_state_dict(weights)
    method, market = module.method, module.market
    mechanisms = [method.mechanism(place) for place in range(len(method.seeds))]
    names = [f"store{i}" for i in range(market.auction.stores)] + [f"brand{i}" for i in range(market.auction.brands)]
    if market.log is not None:
        names = [*market.log.stores, *market.log.brands]
    return Trained(method.auction, method.prior, method.seeds, mechanisms, names[: method.auction.bidders])
