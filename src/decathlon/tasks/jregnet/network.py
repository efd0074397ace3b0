"""JRegNet: two small networks, one allocates bundles to slots, one charges a fraction of the declared value.

Activations are kept features first, (features, rows): the softmaxes over a handful of bundles or slots then run along
contiguous rows, which is an order of magnitude faster on a CPU than rows first.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from decathlon.tasks.jregnet.auction import JointAuction, Outcome

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
}


class JRegNet(nn.Module):
    """The joint regret network (architecture reconstructed from follow-ups and public variants of the paper's code).

    The allocation network has two heads over (E + 1) x (K + 1): a softmax over bundles and a softmax over slots, each
    with a dummy; their minimum without the dummies is feasible for any weights. The payment network gives each bidder
    a fraction f_i in (0, 1) of its declared value: p_i = f_i b_i g_i, so truthful utility is never negative.

    Args:
        auction: the market; its graph is fixed, unless ``graph_input``.
        width, depth: hidden units, and number of hidden layers, of each network.
        activation: silu, tanh, relu or gelu.
        inputs: ``bids`` (n numbers) or ``slotwise`` (b_i a_k, n K numbers, as in the public variants; the product with
            the click rates is folded into the weights and never stored).
        graph_input: whether the 0/1 presence of each bundle is an input too, for graphs that vary between samples.
        payments: ``fraction`` as published, or ``slots`` (our extension): a fraction for each slot, so that payments
            can follow the jumps of the allocation.
        generator: source of the initial weights (Glorot uniform, biases 0).
    """

    rates: Tensor
    incidence: Tensor

    def __init__(
        self,
        auction: JointAuction,
        width: int = 64,
        depth: int = 2,
        activation: str = "silu",
        inputs: str = "bids",
        graph_input: bool = False,
        payments: str = "fraction",
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation} is unknown; choose {', '.join(ACTIVATIONS)}")
        if inputs not in ("bids", "slotwise"):
            raise ValueError(f"inputs={inputs} is unknown; choose bids or slotwise")
        if payments not in ("fraction", "slots"):
            raise ValueError(f"payments={payments} is unknown; choose fraction or slots")
        if width < 1 or depth < 1:
            raise ValueError(f"width={width} and depth={depth} must be at least 1")
        bundles, slots, bidders = len(auction.bundles), auction.slots, auction.bidders
        self.shape = (2, bundles + 1, slots + 1)
        self.width, self.depth, self.inputs, self.graph_input = width, depth, inputs, graph_input
        self.activation, self.payments = activation, payments
        fan_in = bidders * (slots if inputs == "slotwise" else 1)
        total = fan_in + (bundles if graph_input else 0)

        def weight(*sizes: int, fan_in: int, fan_out: int) -> nn.Parameter:
            bound = (6.0 / (fan_in + fan_out)) ** 0.5
            return nn.Parameter((torch.rand(*sizes, generator=generator) * 2 - 1) * bound)

        # The first axis of size 2 (or the two halves of 2 * width) is: allocation network, payment network.
        self.weight_in = weight(2 * width, fan_in, fan_in=total, fan_out=width)
        self.weight_graph = weight(2 * width, bundles, fan_in=total, fan_out=width) if graph_input else None
        self.bias_in = nn.Parameter(torch.zeros(2 * width, 1))
        self.hidden = nn.ParameterList([weight(2, width, width, fan_in=width, fan_out=width) for _ in range(depth - 1)])
        self.hidden_bias = nn.ParameterList([nn.Parameter(torch.zeros(2, width, 1)) for _ in range(depth - 1)])
        heads = 2 * (bundles + 1) * (slots + 1)
        self.weight_allocation = weight(heads, width, fan_in=width, fan_out=heads // 2)
        self.bias_allocation = nn.Parameter(torch.zeros(heads, 1))
        charges = bidders * (1 if payments == "fraction" else slots)
        self.weight_payment = weight(charges, width, fan_in=width, fan_out=charges)
        self.bias_payment = nn.Parameter(torch.zeros(charges, 1))
        self.register_buffer("rates", auction.click_rates, persistent=False)
        self.register_buffer("incidence", auction.incidence, persistent=False)

    def forward(
        self, bids: Tensor, misreports: Tensor, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outcome under ``bids``, and each bidder's own outcome when it alone deviates.

        Args:
            bids: (n, B).
            misreports: (n, M, B); M may be 0. Profile (i, m, l) is profile l with coordinate i replaced.
            present: (E, B) bool.

        Returns:
            clicks and payments (n, B) under ``bids``, own clicks and own payments (n, M, B).
        """
        count, samples = misreports.shape[1:]
        rows = self._first_layer(bids, misreports, present)
        allocation, charges = self._heads(rows, _tile(present, 1 + len(bids) * count))
        shown = self._shown(allocation[..., :samples])
        own_shown = self._own_shown(allocation[..., samples:], count, samples)
        return (
            shown.sum(1),
            self._payments(bids, shown, charges[..., :samples]),
            own_shown.sum(1),
            self._payments(misreports, own_shown, _own(charges[..., samples:], count, samples)),
        )

    def outcome(self, auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
        """The network as a mechanism: bids (B, n) to an :class:`~.auction.Outcome`."""
        there = None if present is None else present.T
        rows = bids.T
        allocation, charges = self._heads(self._first_layer(rows, rows[:, None][:, :0], there), there)
        payments = self._payments(rows, self._shown(allocation), charges)
        return Outcome(allocation.permute(2, 0, 1), payments.T)

    def _shown(self, allocation: Tensor) -> Tensor:
        """Expected clicks (n, K, R) that each bidder has from each slot, for slot probabilities (E, K, R)."""
        shown = torch.einsum("en,ekr->nkr", self.incidence.to(allocation), allocation)
        return shown * self.rates.to(allocation)[:, None]

    def _own_shown(self, allocation: Tensor, count: int, samples: int) -> Tensor:
        """The same, (n, K, M, B), of each deviating bidder only, for slot probabilities (E, K, n M B)."""
        bundles, slots = allocation.shape[:2]
        bidders = self.incidence.shape[1]
        blocks = allocation.reshape(bundles, slots, bidders, count * samples)
        shown = torch.einsum("en,eknr->nkr", self.incidence.to(allocation), blocks)
        return (shown * self.rates.to(allocation)[:, None]).reshape(bidders, slots, count, samples)

    def _payments(self, bids: Tensor, shown: Tensor, charges: Tensor) -> Tensor:
        """Payments (n, ...) for bids (n, ...), clicks per slot (n, K, ...) and outputs of the payment head."""
        return bids * (shown * charges.sigmoid()).sum(1)

    def _first_layer(self, bids: Tensor, misreports: Tensor, present: Tensor | None) -> Tensor:
        """Pre-activations (2 * width, B + n M B). A deviation changes one input: a rank-one update of its row."""
        weight: Tensor = self.weight_in
        if self.inputs == "slotwise":
            weight = weight.reshape(2 * self.width, -1, len(self.rates)) @ self.rates.to(weight)
        base = torch.addmm(self.bias_in, weight, bids)
        if self.weight_graph is not None:
            if present is None:
                base = base + self.weight_graph.sum(1, keepdim=True)
            else:
                base = base + self.weight_graph @ present.to(base)
        if misreports.shape[1] == 0:
            return base
        shift = misreports - bids[:, None]
        moved = torch.addcmul(base[:, None, None], weight[:, :, None, None], shift)
        return torch.cat([base, moved.flatten(1)], 1)

    def _heads(self, rows: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        activation = ACTIVATIONS[self.activation]
        hidden = activation(rows).view(2, self.width, -1)
        for weight, bias in zip(self.hidden, self.hidden_bias):
            hidden = activation(torch.baddbmm(bias, weight, hidden))
        logits = torch.addmm(self.bias_allocation, self.weight_allocation, hidden[0]).view(*self.shape, -1)
        over_bundles = logits[0]
        if present is not None:
            absent = nn.functional.pad(~present, (0, 0, 0, 1))[:, None]
            over_bundles = over_bundles.masked_fill(absent, -torch.inf)
        allocation = torch.minimum(over_bundles.softmax(0), logits[1].softmax(1))[:-1, :-1]
        charges = torch.addmm(self.bias_payment, self.weight_payment, hidden[1])
        return allocation, charges.view(self.incidence.shape[1], -1, charges.shape[-1])


def _own(rows: Tensor, count: int, samples: int) -> Tensor:
    """From (n, X, n M B), the entries where bidder and deviating bidder agree: (n, X, M, B)."""
    bidders, width = rows.shape[:2]
    blocks = rows.reshape(bidders, width, bidders, count * samples).diagonal(dim1=0, dim2=2)  # (X, M B, n)
    return blocks.movedim(-1, 0).reshape(bidders, width, count, samples)


def _tile(present: Tensor | None, times: int) -> Tensor | None:
    return None if present is None else present.repeat(1, times)
