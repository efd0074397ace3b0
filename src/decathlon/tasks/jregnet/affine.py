"""JAMA: a joint affine maximiser with learnt weights and boosts (after Ma et al. 2024); truthful by construction."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.tasks.jregnet.auction import JointAuction, Outcome
from decathlon.tasks.jregnet.inputs import numbers
from decathlon.tasks.jregnet.methods import Batch, Method
from decathlon.tasks.jregnet.priors import Prior
from decathlon.tasks.jregnet.scores import best, score_auction


class AffineMaximizer:
    """Bundle score ``sum_i w_i b_i + c_e``; slots to the best positive scores, critical-value payments.

    Args:
        weights: (n,) positive w.
        boosts: (E,) c.

    Raises:
        ValueError: a weight that is not positive, or numbers that are not finite.
    """

    def __init__(self, weights: Any, boosts: Any) -> None:
        self.weights, self.boosts = (torch.as_tensor(given).double() for given in (weights, boosts))
        if not bool((self.weights > 0).all() and self.weights.isfinite().all() and self.boosts.isfinite().all()):
            raise ValueError("an affine maximiser needs positive weights and finite boosts")

    def __call__(self, auction: JointAuction, bids: Tensor, present: Tensor | None = None) -> Outcome:
        bids = numbers(bids, auction.bidders, "bids")
        if (len(self.weights), len(self.boosts)) != (auction.bidders, len(auction.bundles)):
            raise ValueError(f"{len(self.weights)} weights and {len(self.boosts)} boosts do not fit {auction}")
        weights, boosts = self.weights.to(bids.device), self.boosts.to(bids.device)
        outcome = score_auction(auction, bids.double() * weights, lambda scores: scores / weights, 0.0, boosts, present)
        return Outcome(outcome.allocation.to(bids), outcome.payments.to(bids))


class AffineLearner(Method):
    """Learns w and c by gradient through a soft top-K.

    Payments are ``(1 / w_i) [AW(0, b_-i) - AW(b)] + b_i g_i`` with the affine welfare AW. AW is continuous in (w, c)
    and differentiated as it is; the clicks g jump, so they are replaced by a SoftSort (Prillo and Eisenschlos 2020).

    Args:
        temperature: softness of the sort at the end of training, as a share of a bundle's median value; it starts ten
            times softer. Too soft a sort sees almost no loss in selling to low values and learns no reserve.
    """

    incidence: Tensor
    rates: Tensor

    def __init__(
        self,
        auction: JointAuction,
        prior: Prior,
        seeds: Sequence[int],
        temperature: float = 0.005,
        graph_input: bool = False,
        bidders: str = "both",
    ) -> None:
        super().__init__(auction, prior, seeds, bidders)
        if temperature <= 0:
            raise ValueError(f"temperature={temperature} must be positive")
        self.log_weights = nn.Parameter(torch.zeros(len(self.seeds), self.auction.bidders))
        middle = self.prior.quantile(torch.full((1, self.auction.bidders), 0.5))
        mean = self.auction.scores(middle / self.units.scale)
        self.temperature = float(temperature * mean.mean()) or temperature  # where most values are 0
        self.boosts = nn.Parameter(-0.5 * mean.repeat(len(self.seeds), 1))
        self.register_buffer("incidence", self.auction.incidence.float(), persistent=False)
        self.register_buffer("rates", self.auction.click_rates.float(), persistent=False)

    def losses(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.log_weights.exp()[:, None]  # (S, 1, n)
        bids = self.seen(batch.values).transpose(1, 2)  # (S, B, n)
        scores = (bids * weights) @ self.incidence.T + self.boosts[:, None]
        if batch.present is not None:
            scores = scores.masked_fill(~batch.present.transpose(1, 2), -torch.inf)
        slots = self.auction.slots
        welfare = best(scores, slots) @ self.rates  # (S, B)
        at_zero = scores[:, :, None] - (bids * weights)[..., None] * self.incidence.T
        without = best(at_zero, slots) @ self.rates  # (S, B, n)
        clicks = self._soft_clicks(scores, self.temperature * 10 ** (1 - progress))
        payments = (without - welfare[..., None]) / weights + bids * clicks
        revenue = payments.sum(-1).mean(1)
        return -revenue, {"revenue": revenue.detach() * self.units.scale}

    def _soft_clicks(self, scores: Tensor, temperature: float) -> Tensor:
        """(S, B, n) clicks under a soft assignment of bundles, and empty slots of score 0, to the sorted scores."""
        padded = nn.functional.pad(scores, (0, self.auction.slots))
        ordered = padded.sort(-1, descending=True).values[..., : self.auction.slots]
        soft = (-(ordered[..., None] - padded[..., None, :]).abs() / temperature).softmax(-1)
        bundles = torch.einsum("sbke,k->sbe", soft[..., : scores.shape[-1]], self.rates)
        return bundles @ self.incidence

    def mechanism(self, place: int) -> Callable[..., Any]:
        return AffineMaximizer(self.log_weights[place].detach().exp(), self.boosts[place].detach() * self.units.scale)
