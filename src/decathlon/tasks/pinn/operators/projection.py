"""PCGrad and GradDrop: operators that take the conflicting parts out of the gradients."""

import torch
from torch import Tensor

from decathlon.tasks.pinn.errors import NotFiniteError
from decathlon.tasks.pinn.operators.base import GramOperator, Operator, Seeded
from decathlon.tasks.pinn.operators.gram import HALVES, check_rows, like, real_rows


class PCGrad(Seeded, GramOperator):
    """Projecting conflicting gradients (Yu et al., NeurIPS 2020).

    ``p_i = g_i``; for every other loss j in turn, if ``p_i.g_j < 0``: ``p_i -= (p_i.g_j)/|g_j|^2 g_j``; the
    update is ``sum_i p_i``. Every p_i is a combination of the gradients, so all is done on the Gram matrix.

    Args:
        order: ``random`` (the original: a new order of j for each i and step) or ``fixed`` (j = 0, 1, ...).
        seed: of the random orders.
    """

    batched = True

    def __init__(self, order: str = "random", seed: int = 0) -> None:
        if order not in ("random", "fixed"):
            raise ValueError(f"order={order!r} is no order of PCGrad; choose random or fixed")
        super().__init__(seed)
        self.order = order

    def coefficients(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:
        count = gram.shape[-1]
        if self.order == "random":
            orders = torch.rand(count, count, generator=self.generator()).argsort(dim=1)
        else:
            orders = torch.arange(count).expand(count, count)
        rows = torch.arange(count)
        projected = torch.eye(count, dtype=torch.float64).expand_as(gram).clone()  # row i: coefficients of p_i
        for other in orders.T:  # other[i]: the loss that p_i meets now
            overlap = (projected * gram[..., other, :]).sum(dim=-1)
            conflict = (overlap < 0) & (other != rows)
            square = gram[..., other, other].clamp(min=torch.finfo(torch.float64).tiny)
            projected[..., rows, other] -= torch.where(conflict, overlap / square, 0.0)
        return projected.sum(dim=-2)


class GradDrop(Seeded, Operator):
    """Gradient sign dropout (Chen et al., NeurIPS 2020).

    In each coordinate ``P = (1 + sum_i g_i/(sum_i |g_i| + 1e-8))/2`` and U is uniform on [0, 1]: the update
    is the sum of the positive entries where P > U, of the negative ones otherwise.

    Args:
        seed: of the uniform draws.
    """

    def __call__(self, gradients: Tensor, losses: Tensor | None = None) -> Tensor:
        rows = real_rows(gradients)
        total = torch.zeros_like(rows[0], dtype=torch.float32 if rows.dtype in HALVES else rows.dtype)
        magnitude = torch.zeros_like(total)
        for row in rows:
            total += row
            magnitude += row.abs()
        if not bool(magnitude.sum().isfinite()):
            check_rows(rows)  # names the loss at fault
        if not bool(magnitude.amax() <= torch.finfo(rows.dtype).max):
            raise NotFiniteError(f"the combined gradient is not finite: it overflows {str(rows.dtype)[6:]}")
        purity = (1 + total / (magnitude + 1e-8)) / 2
        uniform = torch.rand(len(total), generator=self.generator(total.device), device=total.device, dtype=total.dtype)
        positive = (total + magnitude) / 2  # the sum of the positive entries
        update = torch.where(purity > uniform, positive, total - positive)
        return like(update.to(rows.dtype), gradients)
