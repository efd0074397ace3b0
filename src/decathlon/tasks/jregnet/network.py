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
        knee: (n,), for values with a long tail: a bid b enters the first layer as log(1 + b / knee) / 2, or as it is
            where the knee is infinite.
        generator: source of the initial weights (Glorot uniform, biases 0).
    """

    rates: Tensor
    incidence: Tensor
    knee: Tensor | None

    def __init__(
        self,
        auction: JointAuction,
        width: int = 64,
        depth: int = 2,
        activation: str = "silu",
        inputs: str = "bids",
        graph_input: bool = False,
        payments: str = "fraction",
        knee: Tensor | None = None,
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
        self.register_buffer("knee", knee, persistent=False)

    def forward(
        self, bids: Tensor, misreports: Tensor, present: Tensor | None = None, truth: bool = True
    ) -> tuple[Tensor, ...]:
        """Outcome under ``bids``, and each bidder's own outcome when it alone deviates.

        Args:
            bids: (n, B).
            misreports: (n, M, D); M may be 0. Each bidder deviates in D of the profiles, see :func:`at_places`.
            present: (E, B) bool.
            truth: whether the outcome under ``bids`` is wanted.

        All may have a dimension (S) in front, if all parameters have it too: the weights of S networks.

        Returns:
            With ``truth`` clicks and payments (n, B) under ``bids``, then own clicks and own payments (n, M, D).
        """
        count, draws = misreports.shape[-2:]
        samples = bids.shape[-1] if truth else 0
        rows = self._first_layer(bids, misreports, present, truth)
        allocation, charges = self._heads(rows, _rows_present(present, misreports, truth))
        own_shown = self._own_shown(allocation[..., samples:], count, draws)
        own_charges = _own(charges[..., samples:], count, draws)
        own = own_shown.sum(-3), misreports * (own_shown * own_charges.sigmoid()).sum(-3)
        if not truth:
            return own
        shown = self._shown(allocation[..., :samples])
        return shown.sum(-2), bids * (shown * charges[..., :samples].sigmoid()).sum(-2), *own

    def outcome(self, auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
        """The network as a mechanism: bids (B, n) to an :class:`~.auction.Outcome`."""
        there = None if present is None else present.T
        rows = bids.T
        allocation, charges = self._heads(self._first_layer(rows, rows[:, None][:, :0], there), there)
        payments = rows * (self._shown(allocation) * charges.sigmoid()).sum(1)
        return Outcome(allocation.permute(2, 0, 1), payments.T)

    def _shown(self, allocation: Tensor) -> Tensor:
        """Expected clicks (n, K, R) that each bidder has from each slot, for slot probabilities (E, K, R)."""
        shown = torch.einsum("en,...ekr->...nkr", self.incidence.to(allocation), allocation)
        return shown * self.rates.to(allocation)[:, None]

    def _own_shown(self, allocation: Tensor, count: int, draws: int) -> Tensor:
        """The same, (n, K, M, D), of each deviating bidder only, for slot probabilities (E, K, n M D)."""
        blocks = allocation.unflatten(-1, (self.incidence.shape[1], count * draws))
        shown = torch.einsum("en,...eknr->...nkr", self.incidence.to(allocation), blocks)
        return (shown * self.rates.to(allocation)[:, None]).unflatten(-1, (count, draws))

    def _first_layer(self, bids: Tensor, misreports: Tensor, present: Tensor | None, truth: bool = True) -> Tensor:
        """Pre-activations (2 * width, B + n M D). A deviation changes one input: a rank-one update of its row."""
        if self.knee is not None:
            knee = self.knee.to(bids)[:, None]
            bids = ((bids / knee).log1p() / 2).where(knee.isfinite(), bids)
            misreports = ((misreports / knee[:, None]).log1p() / 2).where(knee[:, None].isfinite(), misreports)
        weight: Tensor = self.weight_in
        if self.inputs == "slotwise":
            weight = weight.unflatten(-1, (-1, len(self.rates))) @ self.rates.to(weight)
        base = _affine(weight, bids, self.bias_in)
        if self.weight_graph is not None:
            if present is None:
                base = base + self.weight_graph.sum(-1, keepdim=True)
            else:
                base = base + self.weight_graph @ present.to(base)
        bidders, count, draws = misreports.shape[-3:]
        if count == 0:
            return base
        shift = misreports - at_places(bids, draws).unsqueeze(-2)
        before = _spread(base, bidders, draws).unsqueeze(-2)
        moved = torch.addcmul(before, weight[..., None, None], shift.unsqueeze(-4)).flatten(-3)
        return torch.cat([base, moved], -1) if truth else moved

    def _heads(self, rows: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        activation = ACTIVATIONS[self.activation]
        hidden = activation(rows).unflatten(-2, (2, self.width))
        for weight, bias in zip(self.hidden, self.hidden_bias):
            hidden = activation(_affine(weight, hidden, bias))
        logits = _affine(self.weight_allocation, hidden[..., 0, :, :], self.bias_allocation).unflatten(-2, self.shape)
        over_bundles, over_slots = logits.unbind(-4)
        if present is not None:
            absent = nn.functional.pad(~present, (0, 0, 0, 1)).unsqueeze(-2)
            over_bundles = over_bundles.masked_fill(absent, -torch.inf)
        allocation = torch.minimum(over_bundles.softmax(-3), over_slots.softmax(-2))[..., :-1, :-1, :]
        charges = _affine(self.weight_payment, hidden[..., 1, :, :], self.bias_payment)
        return allocation, charges.unflatten(-2, (self.incidence.shape[1], -1))


def _affine(weight: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """``weight @ rows + bias`` for (..., X, Y), (..., Y, R) and (..., X, 1) with the same dimensions in front."""
    if weight.ndim == 2:
        return torch.addmm(bias, weight, rows)
    front = weight.shape[:-2]
    return torch.baddbmm(bias.flatten(0, -3), weight.flatten(0, -3), rows.flatten(0, -3)).unflatten(0, front)


def at_places(rows: Tensor, draws: int) -> Tensor:
    """(..., n, D) of the rows (..., n, B): what belongs to each bidder in the D profiles in which it deviates.

    These are the first D for the first bidder, the next D for the second, and so on, round and round. With D = B every
    bidder deviates in every profile; with D = B / n one bidder does in each.
    """
    if draws == rows.shape[-1]:
        return rows
    return _spread(rows, rows.shape[-2], draws).diagonal(dim1=-3, dim2=-2).movedim(-1, -2)


def _spread(columns: Tensor, bidders: int, draws: int) -> Tensor:
    """(..., X, n, D): the columns (..., X, B) where each bidder deviates; (..., X, 1, B) if it does in all."""
    samples = columns.shape[-1]
    if draws == samples:
        return columns.unsqueeze(-2)
    times = -(-bidders * draws // samples)
    wrapped = columns if times == 1 else torch.cat([columns] * times, -1)
    return wrapped[..., : bidders * draws].unflatten(-1, (bidders, draws))


def _own(rows: Tensor, count: int, draws: int) -> Tensor:
    """From (..., n, X, n M D), the entries where bidder and deviating bidder agree: (..., n, X, M, D)."""
    blocks = rows.unflatten(-1, (rows.shape[-3], count * draws)).diagonal(dim1=-4, dim2=-2)  # (..., X, M D, n)
    return blocks.movedim(-1, -3).unflatten(-1, (count, draws))


def _rows_present(present: Tensor | None, misreports: Tensor, truth: bool) -> Tensor | None:
    """(..., E, B + n M D) presence of every row; without the first B if not ``truth``."""
    if present is None:
        return None
    bidders, count, draws = misreports.shape[-3:]
    moved = _spread(present, bidders, draws).unsqueeze(-2)
    moved = moved.expand(*moved.shape[:-3], bidders, count, draws).flatten(-3)
    return torch.cat([present, moved], -1) if truth else moved
