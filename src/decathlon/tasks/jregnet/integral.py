"""An exactly truthful variant (our extension): the learnt allocation with integral payments (Myerson's envelope)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.jregnet.auction import JointAuction, Outcome
from decathlon.tasks.jregnet.methods import Batch, Method, generator
from decathlon.tasks.jregnet.network import JRegNet
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.regret import MAX_ROWS
from decathlon.tasks.jregnet.stacking import Stack


def simpson(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the composite Simpson rule on [0, 1]; ``points`` is odd and at least 3."""
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points={points}: Simpson's rule needs an odd number of points, at least 3")
    weights = torch.full((points,), 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return torch.linspace(0, 1, points), weights / (3 * (points - 1))


class IntegralPayments:
    """p_i = b_i g_i(b) - int_{low_i}^{b_i} g_i(t, b_-i) dt: truthful wherever g_i rises in the own bid.

    Args:
        network: gives the allocation; its payment half is not used.
        low: (n,) lowest values; there utility is zero.
        points: quadrature points.
    """

    def __init__(self, network: JRegNet, low: Tensor, points: int = 33) -> None:
        self.network, self.low = network.eval(), low.float()
        self.nodes, self.weights = simpson(points)

    @torch.no_grad()
    def __call__(self, auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
        rows = bids.T.contiguous().to(self.network.bias_in)
        there = None if present is None else present.T
        allocation, _ = self.network.allocation_and_fractions(rows, there)
        allocation = allocation.permute(2, 0, 1)
        size = max(1, MAX_ROWS // len(rows))
        parts = rows.split(size, 1)
        graphs = [None] * len(parts) if there is None else there.split(size, 1)
        rent = torch.cat([self._rent(part, part[:, None], graph)[:, 0] for part, graph in zip(parts, graphs)], 1)
        return Outcome(allocation, bids * auction.clicks(allocation) - rent.T)

    @torch.no_grad()
    def deviate(
        self, auction: JointAuction, values: Tensor, misreports: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Utilities (M, B, n): (v_i - b_i) g_i(b_i) + int g_i."""
        rows, lies = (
            values.T.contiguous().to(self.network.bias_in),
            misreports.permute(2, 0, 1).to(self.network.bias_in),
        )
        there = None if present is None else present.T
        _, _, clicks, _ = self.network(rows, lies, there)
        utilities = (rows[:, None] - lies) * clicks + self._rent(rows, lies, there)
        return utilities.permute(1, 2, 0).to(misreports)

    def _rent(self, rows: Tensor, tops: Tensor, present: Tensor | None) -> Tensor:
        """int_{low}^{top} g_i(t, v_-i) dt for tops (n, M, B)."""
        low = self.low.to(rows)[:, None, None]
        nodes, weights = self.nodes.to(rows), self.weights.to(rows)
        rent = torch.zeros_like(tops)
        for node, weight in zip(nodes, weights):  # one pass per node keeps memory at n M B rows
            _, _, clicks, _ = self.network(rows, low + node * (tops - low), present)
            rent += weight * clicks
        return rent * (tops - low)


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
        points: int = 33,
        graph_input: bool = False,
        bidders: str = "both",
    ) -> None:
        super().__init__(auction, prior, seeds, bidders)
        options = {**(network or {}), "graph_input": graph_input and not self.stores_only}
        self.stack = Stack([JRegNet(self.auction, **options, generator=generator("weights", s)) for s in self.seeds])
        self.points = simpson(points)[0].numel()

    def losses(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        values = batch.values
        clicks, _, _, _ = self.stack(values, values[:, :, None][:, :, :0], batch.present)
        virtual = self.prior.virtual(values.transpose(1, 2)).transpose(1, 2)
        revenue = (virtual * clicks).sum(1).mean(-1)
        return -revenue, {"revenue": revenue.detach()}

    def mechanism(self, place: int) -> Callable[..., Any]:
        network = self.stack.single(place)
        assert isinstance(network, JRegNet)
        return IntegralPayments(network, self.prior.low, self.points)
