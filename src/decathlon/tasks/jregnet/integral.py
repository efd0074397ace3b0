"""An exactly truthful variant (our extension): the learnt allocation with integral payments (Myerson's envelope)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from decathlon.build import check_options
from decathlon.randomness import generator
from decathlon.tasks.jregnet.auction import JointAuction, Outcome
from decathlon.tasks.jregnet.inputs import numbers, presence, same_market
from decathlon.tasks.jregnet.methods import Batch, Method
from decathlon.tasks.jregnet.network import JRegNet
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.regret import MAX_ROWS
from decathlon.tasks.jregnet.stacking import Stack
from decathlon.tasks.jregnet.units import Units


class IntegralPayments:
    """p_i = b_i g_i(b) - int_{low_i}^{b_i} g_i(t, b_-i) dt: truthful wherever g_i rises in the own bid.

    The integral is Simpson's rule on fixed cells of the bidder's support (even ones; on a logarithmic scale where the
    network sees a long tail so), and on the part of a cell that remains: the cells do not move with the bid, so that
    many bids against the same opponents share them.

    Args:
        network: gives the allocation; its payment half is not used.
        low, high: (n,) supports; at its lowest value a bidder's utility is zero.
        points: quadrature points on a support (up to where bids are capped), odd.
        units: in which the network was trained; by default the bids are what it sees.
    """

    def __init__(
        self, network: JRegNet, low: Tensor, high: Tensor, points: int = 65, units: Units | None = None
    ) -> None:
        self.network = network.eval()
        self.units = units or Units.plain(len(low))
        self.low, self.high = self.units.bids(low), self.units.bids(high)
        self.cells = cells(points)

    @torch.no_grad()
    def __call__(self, auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
        same_market(auction, self.network.incidence, self.network.rates)
        bids = numbers(bids, auction.bidders, "bids")
        present = presence(auction, present, len(bids))
        rows = self.units.bids(bids).T.contiguous().to(self.network.bias_in)
        present = None if present is None else present.to(rows.device)
        allocation = self.network.outcome(auction, rows.T, present).allocation
        size = max(1, MAX_ROWS // (len(rows) * 2 * self.cells))
        parts = rows.split(size, 1)
        graphs = [None] * len(parts) if present is None else present.T.split(size, 1)
        rents = [self.clicks_and_rent(part, part[:, None], graph)[1][:, 0] for part, graph in zip(parts, graphs)]
        payments = rows.T * auction.clicks(allocation) - torch.cat(rents, 1).T
        return Outcome(allocation.to(bids), payments.to(bids) * self.units.scale)

    @torch.no_grad()
    def deviate(
        self, auction: JointAuction, values: Tensor, misreports: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Utilities (M, B, n): (v_i - b_i) g_i(b_i) + int g_i."""
        own, rows, lies = (
            x.movedim(-1, 0).contiguous().to(self.network.bias_in)
            for x in (values / self.units.scale, self.units.bids(values), self.units.bids(misreports))
        )
        clicks, rent = self.clicks_and_rent(rows, lies, None if present is None else present.T.to(rows.device))
        return ((own[:, None] - lies) * clicks + rent).permute(1, 2, 0).to(misreports) * self.units.scale

    def clicks_and_rent(self, rows: Tensor, tops: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """g_i(top, v_-i) and int_{low}^{top} g_i(t, v_-i) dt for profiles (n, B) and tops (n, M, B)."""
        edges = self._edges(rows)
        between = (edges[:, 1:] + edges[:, :-1]) / 2
        nodes = torch.cat([torch.stack([edges[:, :-1], between], 2).flatten(1), edges[:, -1:]], 1)
        nodes, width = nodes[..., None].expand(-1, -1, rows.shape[1]), edges.diff(dim=1)[..., None]
        flat = tops.flatten(1).contiguous()
        cell = (torch.searchsorted(edges, flat, right=True) - 1).clamp(0, self.cells - 1)
        left = edges.gather(1, cell).view(tops.shape)
        cell, count = cell.view(tops.shape), tops.shape[1]
        clicks, _ = self.network(rows, torch.cat([nodes, tops, (left + tops) / 2], 1), present, truth=False)
        at_nodes, at_tops, between = clicks.split([nodes.shape[1], count, count], 1)
        starts = at_nodes[:, :-1:2]
        whole = (starts + 4 * at_nodes[:, 1::2] + at_nodes[:, 2::2]) * width / 6
        before = torch.nn.functional.pad(whole.cumsum(1), (0, 0, 1, 0)).gather(1, cell)
        part = (starts.gather(1, cell) + 4 * between + at_tops) * (tops - left) / 6
        return at_tops, before + part

    def _edges(self, like: Tensor) -> Tensor:
        """(n, cells + 1) ends of the cells: even on the support, or on the scale on which the network sees it."""
        low, high = (bound.to(like)[:, None] for bound in (self.low, self.high))
        shares = torch.linspace(0, 1, self.cells + 1).to(like)
        edges = low + shares * (high - low)
        if self.network.knee is not None:
            knee = self.network.knee.to(like)[:, None]
            first, last = (low / knee).log1p(), (high / knee).log1p()
            edges = (knee * (first + shares * (last - first)).expm1()).where(knee.isfinite(), edges)
        return edges.contiguous()


def cells(points: int) -> int:
    """Number of Simpson cells that ``points`` quadrature points make."""
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points={points}: Simpson's rule needs an odd number of points, at least 3")
    return (points - 1) // 2


class IntegralLearner(Method):
    """Trains the allocation for virtual welfare E[sum_i phi_i g_i] (no misreports); payments are integrals.

    Args:
        network: keyword arguments of :class:`~.network.JRegNet`.
        points: quadrature points of the payments.
    """

    def __init__(
        self,
        auction: JointAuction,
        prior: Prior,
        seeds: Sequence[int],
        network: Mapping[str, Any] | None = None,
        points: int = 65,
        graph_input: bool = False,
        bidders: str = "both",
    ) -> None:
        super().__init__(auction, prior, seeds, bidders)
        check_options(JRegNet, network or {}, "network", given=1, also={"graph_input": 0, "generator": 0, "knee": 0})
        options = {**(network or {}), "graph_input": graph_input and not self.stores_only}
        options["knee"] = self.units.network_knee
        self.stack = Stack([JRegNet(self.auction, **options, generator=generator("weights", s)) for s in self.seeds])
        cells(points)
        self.points = points
        for name, weight in zip(self.stack.names, self.stack.stacked):
            weight.requires_grad_(not name.endswith("_payment"))

    def losses(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        values = self.seen(batch.values)
        clicks, _, _, _ = self.stack(values, values[:, :, None][:, :, :0], batch.present)
        revenue = (self.virtual(values) * clicks).sum(1).mean(-1)
        return -revenue, {"revenue": revenue.detach() * self.units.scale}

    def mechanism(self, place: int) -> Callable[..., Any]:
        network = self.stack.single(place)
        assert isinstance(network, JRegNet)
        return IntegralPayments(network, self.prior.low, self.prior.high, self.points, self.units)
