"""JRegNet's training: revenue under a price for regret."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.build import check_options
from decathlon.distributed import gather
from decathlon.randomness import generator
from decathlon.tasks.jregnet.auction import JointAuction, Outcome
from decathlon.tasks.jregnet.inputs import numbers, presence, same_market
from decathlon.tasks.jregnet.methods import Batch, Method, float32
from decathlon.tasks.jregnet.misreports import Ascent, LocalSearch
from decathlon.tasks.jregnet.multipliers import Multipliers
from decathlon.tasks.jregnet.network import JRegNet, at_places
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.stacking import Stack
from decathlon.tasks.jregnet.units import Units


class LearntMechanism:
    """A trained network as a mechanism, with the fast path for deviations that :mod:`~.regret` looks for.

    It computes on the network's device and returns to that of the bids.

    Args:
        network: trained.
        units: in which it was trained; by default the bids are what it sees.
    """

    def __init__(self, network: JRegNet, units: Units | None = None) -> None:
        self.network = network.eval()
        self.units = units or Units.plain(network.incidence.shape[1])

    @torch.no_grad()
    def __call__(self, auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
        same_market(auction, self.network.incidence, self.network.rates)
        bids = numbers(bids, auction.bidders, "bids")
        there = presence(auction, present, len(bids))
        there = None if there is None else there.to(self.network.bias_in.device)
        outcome = self.network.outcome(auction, self.units.bids(bids).to(self.network.bias_in), there)
        return Outcome(outcome.allocation.to(bids.device), outcome.payments.to(bids.device) * self.units.scale)

    @torch.no_grad()
    def deviate(
        self, auction: JointAuction, values: Tensor, misreports: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Utilities (M, B, n) of misreports (M, B, n) at the true values (B, n)."""
        bids = self.units.bids(values).T.contiguous().to(self.network.bias_in)
        lies = self.units.bids(misreports).permute(2, 0, 1).to(bids)
        there = None if present is None else present.T.to(bids.device)
        clicks, payments = self.network(bids, lies, there, truth=False)
        utilities = clicks * values.T.to(bids)[:, None] - payments * self.units.scale
        return utilities.permute(1, 2, 0).to(misreports)


class RegretLearner(Method):
    """JRegNet, or the store-only RegretNet, trained with a misreport search and Lagrange multipliers.

    Args:
        network: keyword arguments of :class:`~.network.JRegNet`.
        search: ``{"kind": "local", ...}`` (:class:`~.misreports.LocalSearch`) or ``{"kind": "ascent", ...}``.
        lagrangian: schedule for :class:`~.multipliers.Multipliers`.
        virtual_weight: weight of the virtual welfare E[sum_i phi_i g_i] in the objective (our extension, needs to know
            the prior): both terms have their maximum at the optimum, but only this one cannot be raised by a leak.
        profiles: size N of a fixed training set with cached misreports; None draws fresh profiles at each step.
        deviators: bidders, in each profile, whose misreports are searched, in turn; None: all, as published. With 1 an
            iteration costs a fraction of that, and its estimate of each bidder's regret rests on B / n profiles.
    """

    cache: Tensor | None
    low: Tensor
    high: Tensor
    spread: Tensor

    def __init__(
        self,
        auction: JointAuction,
        prior: Prior,
        seeds: Sequence[int],
        network: Mapping[str, Any] | None = None,
        search: Mapping[str, Any] | None = None,
        lagrangian: Mapping[str, Any] | None = None,
        virtual_weight: float = 0.0,
        profiles: int | None = None,
        deviators: int | None = None,
        graph_input: bool = False,
        bidders: str = "both",
    ) -> None:
        super().__init__(auction, prior, seeds, bidders)
        check_options(JRegNet, network or {}, "network", given=1, also={"graph_input": 0, "generator": 0, "knee": 0})
        options = {**(network or {}), "graph_input": graph_input and not self.stores_only}
        options["knee"] = self.units.network_knee
        self.stack = Stack([JRegNet(self.auction, **options, generator=generator("weights", s)) for s in self.seeds])
        self.multipliers = Multipliers(len(self.seeds), self.auction.bidders, dict(lagrangian or {}))
        self.virtual_weight = float(virtual_weight)
        chosen = dict(search or {})
        kind = chosen.pop("kind", "local")
        searches: dict[str, type[LocalSearch] | type[Ascent]] = {"local": LocalSearch, "ascent": Ascent}
        if kind not in searches:
            raise ValueError(f"search.kind={kind} is unknown; choose local or ascent")
        check_options(searches[kind], chosen, f"search.kind={kind}")
        self.search: LocalSearch | Ascent = searches[kind](**chosen)
        self.noise = self.search.noise
        if deviators is not None and deviators < 1:
            raise ValueError(f"method.deviators={deviators} must be at least 1, or null for all bidders")
        self.deviators = min(deviators or self.auction.bidders, self.auction.bidders)
        cache = None
        if isinstance(self.search, Ascent) and profiles is not None:
            if self.deviators < self.auction.bidders:
                raise ValueError(
                    "method.deviators: the cached misreports of gradient ascent need all bidders, set null"
                )
            starts = [self._start(profiles, seed) for seed in self.seeds]
            cache = torch.stack(starts)
        self.register_buffer("cache", cache)
        for name, bound in (("low", self.prior.low), ("high", self.units.cap), ("spread", self.units.spread)):
            self.register_buffer(name, float32(bound / self.units.scale), persistent=False)
        self._last: tuple[Batch, Tensor] | None = None

    def _start(self, profiles: int, seed: int) -> Tensor:
        """(N, n, M) first misreports: independent draws from the prior."""
        uniforms = torch.rand(profiles, self.noise, self.auction.bidders, generator=generator("misreports", seed))
        return self.units.bids(self.prior.quantile(uniforms)).transpose(1, 2).contiguous()

    def draws(self, batch_size: int) -> int:
        return -(-batch_size * self.deviators // self.auction.bidders)

    def losses(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.multipliers.begin(progress)
        batch = replace(batch, values=self.seen(batch.values))
        misreports = self.find_misreports(batch)
        self._last = batch, misreports
        revenue, regrets, virtual = self.objectives(batch, misreports)
        loss = self.multipliers.penalty(regrets) - revenue - self.virtual_weight * virtual
        logs = {"revenue": revenue.detach(), "regret": regrets.detach().mean(1)}
        logs = {name: number * self.units.scale for name, number in logs.items()}
        return loss, {**logs, "multiplier": self.multipliers.multiplier.mean(1)}

    def find_misreports(self, batch: Batch) -> Tensor:
        """(S, n, M, D) misreports for a batch in units of size one, by the chosen search.

        The cache is read and written here.
        """
        low, high = self.low, self.high
        own = at_places(batch.values, batch.noise.shape[-1])

        def utility(misreports: Tensor) -> Tensor:
            clicks, payments = self.stack(batch.values, misreports, batch.present, detach=True, truth=False)
            return clicks * own[:, :, None] - payments

        if isinstance(self.search, LocalSearch):
            return self.search(utility, own, batch.noise, low, high, self.spread)
        if self.cache is None or batch.index is None:
            start = self.units.bids(self.prior.quantile(batch.noise.movedim(1, -1))).movedim(-1, 1)
            return self.search(utility, start, low, high)
        rows = torch.arange(len(self.seeds), device=batch.index.device)[:, None]
        found = self.search(utility, self.cache[rows, batch.index].movedim(1, -1), low, high)
        for index, misreports in zip(gather(batch.index), gather(found)):  # of all devices: any may need them
            self.cache[rows, index] = misreports.movedim(-1, 1)
        return found

    def objectives(self, batch: Batch, misreports: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Mean revenue (S,), regrets (S, n) and, if it counts, virtual welfare (S,) over a batch in units of size one.

        A bidder's regret is its mean over the D profiles in which it deviates.

        Regret compares utilities at the *true* value: ``relu(v g' - f' v' g' - u)``, the largest over misreports.
        """
        values = batch.values
        clicks, payments, own_clicks, own_payments = self.stack(values, misreports, batch.present)
        draws = misreports.shape[-1]
        lied = own_clicks * at_places(values, draws)[:, :, None] - own_payments
        best = lied.squeeze(2) if lied.shape[2] == 1 else lied.amax(2)
        excess = torch.relu(best - at_places(values * clicks - payments, draws))
        virtual: Tensor | float = 0.0
        if self.virtual_weight:
            phi = self.virtual(values)
            virtual = (phi * clicks).sum(1).mean(-1)
        return payments.sum(1).mean(-1), excess.mean(-1), virtual

    def after_step(self, batch: Batch, step: int) -> None:
        """The multipliers' updates: the same batch and misreports, the new weights."""
        if self.multipliers.due(step):
            assert self._last is not None
            with torch.no_grad():
                self.multipliers.update(self.objectives(*self._last)[1])
        self.multipliers.end(step)

    def mechanism(self, place: int) -> Callable[..., Any]:
        network: nn.Module = self.stack.single(place)
        assert isinstance(network, JRegNet)
        return LearntMechanism(network, self.units)
