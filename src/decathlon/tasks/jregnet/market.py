"""Settings as data: who bids for what, how values are distributed, and the profiles of each split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.errors import ConfigError
from decathlon.randomness import generator
from decathlon.tasks.jregnet import graphs
from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.distributions import make_prior
from decathlon.tasks.jregnet.logs import AuctionLog, read_log
from decathlon.tasks.jregnet.methods import Batch, Method
from decathlon.tasks.jregnet.priors import Empirical, Prior

POOLED_BELOW = 30  # bidders seen less often share the distribution of their side


class Market:
    """An auction, the distribution of values, and the profiles that methods are trained, selected and judged on.

    Args:
        setting: a dataset's config: ``stores``, ``brands``, ``graph``, or ``values`` and ``edges`` of a csv log.
        seed: of a random graph.
        distribution, click_rates: as in the config; ignored (distribution) for a log.
        bundles: a number turns the graph into that many random pairs.
        root: data folder in which a log's files are looked up. log: taken in place of the files.

    Attributes:
        per_sample: number of random bundles of each profile, or None when the graph is fixed.
        log: the user's log, or None.
    """

    def __init__(
        self,
        setting: Mapping[str, Any],
        seed: int,
        click_rates: Sequence[float],
        distribution: str | Mapping[str, Any] = "uniform",
        bundles: int | None = None,
        root: str | Path = ".",
        log: AuctionLog | None = None,
    ) -> None:
        self.log: AuctionLog | None = None
        self.per_sample: int | None = None
        if "values" in setting:
            self._from_log(setting, click_rates, log or self._read_log(setting, root))
            return
        stores, brands = int(setting["stores"]), int(setting["brands"])
        graph = setting["graph"]
        if bundles is not None:
            per = graph.get("per", "run") if isinstance(graph, Mapping) else "run"
            graph = {"kind": "random", "bundles": bundles, "per": per}
        edges = graphs.from_spec(graph, stores, brands, seed)
        if isinstance(graph, Mapping) and graph.get("per") == "sample":
            self.per_sample = int(graph["bundles"])
        self.auction = JointAuction(stores, brands, edges, click_rates)
        self.prior = make_prior(distribution, stores, brands)

    @staticmethod
    def _read_log(setting: Mapping[str, Any], root: str | Path) -> AuctionLog:
        if not setting["values"] or not setting["edges"]:
            raise ConfigError("dataset=csv needs dataset.values=<file> and dataset.edges=<file>")
        return read_log(setting["values"], setting["edges"], root)

    def _from_log(self, setting: Mapping[str, Any], click_rates: Sequence[float], log: AuctionLog) -> None:
        self.log = log
        self.auction = JointAuction(len(log.stores), len(log.brands), log.bundles, click_rates)
        ends = _ends(len(log.values), setting["split"])
        train = slice(0, ends[0])
        self._parts = {"train": train, "reserve": train, "val": slice(*ends), "test": slice(ends[1], None)}
        if float(log.values[train].max()) <= 0:
            raise ConfigError(f"all values of the first {ends[0]} auctions, the training part of the log, are 0")
        self._values = log.values
        presence = log.presence()
        self._presence = None if bool(presence.all()) else presence
        self.prior = _fitted(self._values[train], log.seen[train], len(log.stores))
        self.prior.independent = bool(setting["independent"])

    @property
    def varies(self) -> bool:
        """Whether the graph differs between profiles."""
        return self.per_sample is not None or (self.log is not None and self._presence is not None)

    def profiles(self, split: str, samples: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """Values (samples, n) float32 and presence (samples, E) of a split: train, val, test, or reserve.

        Generated profiles are a function of (split, seed); a log gives its first ``samples`` auctions of that split.
        """
        if self.log is not None:
            rows = torch.arange(len(self._values))[self._parts[split]][:samples]
            return self._values[rows].float(), None if self._presence is None else self._presence[rows]
        source = generator(split, seed)
        values = self.prior.sample(samples, source, torch.float32)
        if self.per_sample is None:
            return values, None
        return values, graphs.random_presence(samples, len(self.auction.bundles), self.per_sample, source)


class TrainingProfiles:
    """Training batches as a function of (seed, step).

    Args:
        seeds: of the stacked runs.
        batch_size: profiles per batch.
        noise: U[0,1] draws per bidder and profile that the method wants.
        columns: number of leading bidders that the method sees.
        size: N of a fixed training set, run through in a new order at each pass, by several devices together; None
            draws fresh profiles (from a log: its training auctions, with replacement), other ones on each device.
        draws: for how many profiles of a batch the noise is wanted; None: all.
    """

    def __init__(
        self,
        market: Market,
        seeds: Sequence[int],
        batch_size: int,
        noise: int,
        columns: int,
        size: int | None = None,
        draws: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        if size is not None and size < batch_size:
            raise ConfigError(f"training_profiles={size} must be at least batch_size={batch_size}")
        self.market, self.seeds, self.noise, self.columns = market, list(seeds), noise, columns
        self.batch_size, self.size = batch_size, size
        self.draws = batch_size if draws is None else draws
        self.pairs = columns > market.auction.stores  # the stores alone have no graph
        self._fixed: dict[int, tuple[Tensor, Tensor | None]] = {}
        if market.log is not None or size is not None:
            for seed in self.seeds:
                self._fixed[seed] = market.profiles(
                    "train", size or len(market.profiles("train", 1 << 62, seed)[0]), seed
                )
        self._orders: dict[int, tuple[int, Tensor]] = {}

    @classmethod
    def of(cls, method: Method, market: Market, batch_size: int, size: int | None = None) -> "TrainingProfiles":
        """The profiles, and the noise, that ``method`` trains on."""
        bidders, draws = method.auction.bidders, method.draws(batch_size)
        return cls(market, method.seeds, batch_size, method.noise, bidders, size, draws)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The batch of step number ``step`` (from 0) for all seeds, on device ``rank`` of ``ranks``."""
        drawn = [self._draw(seed, step, rank, ranks) for seed in self.seeds]
        values, noise, presence, index = ([run[part] for run in drawn] for part in range(4))
        keep = slice(0, self.columns)
        return Batch(
            torch.stack(values)[..., keep].transpose(1, 2).contiguous(),
            torch.stack(noise)[..., keep].permute(0, 3, 1, 2).contiguous(),
            None if presence[0] is None or not self.pairs else torch.stack(presence).transpose(1, 2).contiguous(),
            None if index[0] is None else torch.stack(index),
        )

    def _draw(self, seed: int, step: int, rank: int, ranks: int) -> tuple[Tensor, Tensor, Any, Any]:
        """Values (B, n), noise (M, D, n), presence (B, E) and index (B,) of one run."""
        source = generator("step", seed, step, rank)
        size, bidders, market = self.batch_size, self.market.auction.bidders, self.market
        if not self._fixed:
            values = market.prior.transform(torch.rand(size, bidders, generator=source))
            noise = torch.rand(self.noise, self.draws, bidders, generator=source)
            present = None
            if market.per_sample is not None:
                pairs = len(market.auction.bundles)
                present = graphs.random_presence(size, pairs, market.per_sample, source)
            return values, noise, present, None
        values, presence = self._fixed[seed]
        index = self._index(seed, step * ranks + rank, len(values), source)
        noise = torch.rand(self.noise, self.draws, bidders, generator=source)
        return values[index], noise, None if presence is None else presence[index], index

    def _index(self, seed: int, number: int, profiles: int, source: torch.Generator) -> Tensor:
        """(B,) places of batch ``number``, counted over all steps and devices."""
        if self.size is None:
            return torch.randint(profiles, (self.batch_size,), generator=source)
        batches = profiles // self.batch_size
        turn, place = divmod(number, max(1, batches))
        if self._orders.get(seed, (-1, None))[0] != turn:
            self._orders[seed] = (turn, torch.randperm(profiles, generator=generator("order", seed, turn)))
        return self._orders[seed][1][place * self.batch_size : (place + 1) * self.batch_size]


def _ends(auctions: int, split: Sequence[float]) -> tuple[int, int]:
    if len(split) != 3 or min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        raise ConfigError(f"dataset.split={list(split)} must be three positive shares that sum to 1")
    ends = round(auctions * split[0]), round(auctions * (split[0] + split[1]))
    if not 0 < ends[0] < ends[1] < auctions:
        raise ConfigError(f"a log of {auctions} auctions cannot be split {list(split)}; each part needs one auction")
    return ends


def _fitted(values: Tensor, seen: Tensor, stores: int) -> Prior:
    """Empirical distributions; bidders with few observations share their side's."""
    sides = (slice(0, stores), slice(stores, None))
    observations = []
    for side in sides:
        pooled = values[:, side][seen[:, side]]
        for bidder in range(values.shape[1])[side]:
            own = values[:, bidder][seen[:, bidder]]
            chosen = own if len(own) >= POOLED_BELOW and float(own.max()) > 0 else pooled
            observations.append(chosen if len(chosen) and float(chosen.max()) > 0 else values[seen])
    return Empirical(observations)
