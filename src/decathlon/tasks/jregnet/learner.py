"""JRegNet's training: revenue under a price for regret (section 2.3 and 2.4 of the specification)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.randomness import generator
from decathlon.tasks.jregnet.auction import JointAuction, Outcome
from decathlon.tasks.jregnet.methods import Batch, Method, float32
from decathlon.tasks.jregnet.misreports import Ascent, LocalSearch
from decathlon.tasks.jregnet.multipliers import Multipliers
from decathlon.tasks.jregnet.network import JRegNet, at_places
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.stacking import Stack


class LearntMechanism:
    """A trained network as a mechanism, with the fast path for deviations that :mod:`~.regret` looks for.

    It computes on the network's device and returns to that of the bids.
    """

    def __init__(self, network: JRegNet) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def __call__(self, auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
        there = None if present is None else present.to(self.network.bias_in.device)
        outcome = self.network.outcome(auction, bids.to(self.network.bias_in), there)
        return Outcome(outcome.allocation.to(bids.device), outcome.payments.to(bids.device))

    @torch.no_grad()
    def deviate(
        self, auction: JointAuction, values: Tensor, misreports: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Utilities (M, B, n) of misreports (M, B, n) at the true values (B, n)."""
        bids, lies = (
            values.T.contiguous().to(self.network.bias_in),
            misreports.permute(2, 0, 1).to(self.network.bias_in),
        )
        there = None if present is None else present.T.to(bids.device)
        clicks, payments = self.network(bids, lies, there, truth=False)
        return (clicks * bids[:, None] - payments).permute(1, 2, 0).to(misreports)


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
        options = {**(network or {}), "graph_input": graph_input and not self.stores_only}
        self.stack = Stack([JRegNet(self.auction, **options, generator=generator("weights", s)) for s in self.seeds])
        self.multipliers = Multipliers(len(self.seeds), self.auction.bidders, dict(lagrangian or {}))
        self.virtual_weight = float(virtual_weight)
        chosen = dict(search or {})
        kind = chosen.pop("kind", "local")
        if kind not in ("local", "ascent"):
            raise ValueError(f"search.kind={kind} is unknown; choose local or ascent")
        self.search: LocalSearch | Ascent = LocalSearch(**chosen) if kind == "local" else Ascent(**chosen)
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
        self.register_buffer("low", float32(self.prior.low), persistent=False)
        self.register_buffer("high", float32(self.prior.high), persistent=False)
        self._found: Tensor | None = None

    def _start(self, profiles: int, seed: int) -> Tensor:
        """(N, n, M) first misreports: independent draws from the prior."""
        uniforms = torch.rand(profiles, self.noise, self.auction.bidders, generator=generator("misreports", seed))
        return self.prior.quantile(uniforms).transpose(1, 2).contiguous()

    def draws(self, batch_size: int) -> int:
        return -(-batch_size * self.deviators // self.auction.bidders)

    def losses(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.multipliers.begin(progress)
        misreports = self.find_misreports(batch)
        self._found = misreports
        revenue, regrets, virtual = self.objectives(batch, misreports)
        loss = self.multipliers.penalty(regrets) - revenue - self.virtual_weight * virtual
        logs = {"revenue": revenue.detach(), "regret": regrets.detach().mean(1)}
        return loss, {**logs, "multiplier": self.multipliers.multiplier.mean(1)}

    def find_misreports(self, batch: Batch) -> Tensor:
        """(S, n, M, D) misreports for the batch, by the chosen search; the cache is read and written here."""
        low, high = self.low, self.high
        own = at_places(batch.values, batch.noise.shape[-1])

        def utility(misreports: Tensor) -> Tensor:
            clicks, payments = self.stack(batch.values, misreports, batch.present, detach=True, truth=False)
            return clicks * own[:, :, None] - payments

        if isinstance(self.search, LocalSearch):
            return self.search(utility, own, batch.noise, low, high)
        if self.cache is None or batch.index is None:
            start = self.prior.quantile(batch.noise.movedim(1, -1)).movedim(-1, 1)
            return self.search(utility, start, low, high)
        rows = torch.arange(len(self.seeds), device=batch.index.device)[:, None]
        found = self.search(utility, self.cache[rows, batch.index].movedim(1, -1), low, high)
        for index, misreports in zip(everyones(batch.index), everyones(found)):
            self.cache[rows, index] = misreports.movedim(-1, 1)
        return found

    def objectives(self, batch: Batch, misreports: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Mean revenue (S,), regrets (S, n) and, if it counts, virtual welfare (S,) over the batch.

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
            phi = self.prior.virtual(values.transpose(1, 2)).transpose(1, 2)
            virtual = (phi * clicks).sum(1).mean(-1)
        return payments.sum(1).mean(-1), excess.mean(-1), virtual

    def after_step(self, batch: Batch, step: int) -> None:
        """The multipliers' updates: the same batch and misreports, the new weights."""
        if self.multipliers.due(step):
            assert self._found is not None
            with torch.no_grad():
                self.multipliers.update(self.objectives(batch, self._found)[1])
        self.multipliers.end(step)

    def mechanism(self, place: int) -> Callable[..., Any]:
        network: nn.Module = self.stack.single(place)
        assert isinstance(network, JRegNet)
        return LearntMechanism(network)


def everyones(part: Tensor) -> list[Tensor]:
    """``part`` of all devices that train together, in the order of their ranks; of the only one where there is one.

    With it every device keeps the whole cache of misreports, which any of them may need, and a checkpoint holds.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [part]
    parts = [torch.empty_like(part) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, part.contiguous())
    return parts
