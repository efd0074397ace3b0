"""Conflict-free gradients in a plain training loop."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from decathlon.tasks.pinn.flat import Flat, Loss, Losses, average, evaluate, listed
from decathlon.tasks.pinn.operators.base import Operator
from decathlon.tasks.pinn.weightings import Weighting


class Backward:
    """Does what ``loss.backward()`` does, for several losses: puts one combined gradient into ``.grad``.

    ::

        backward = Backward(model.parameters(), ConFIG())
        for batch in batches:
            backward({"data": data_loss(batch), "physics": physics_loss(batch)})
            optimizer.step()

    Losses are scalar tensors, or functions that return one; functions are evaluated one after the other, so
    only one graph is alive at a time. ``.grad`` is replaced, not accumulated: ``zero_grad`` is not needed.
    The gradients stay in one (m, N) buffer that is used again at each call (``gradients``). Gradients are
    taken with ``torch.autograd.grad``; in a distributed run they are averaged over the processes *before*
    they are combined, so call it on the bare module (``ddp.module``'s parameters are the same ones) and leave
    DistributedDataParallel's own reduction out of it.

    Args:
        parameters: the parameters that the losses share.
        operator: a gradient operator, or a weighting. A weighting that does not look at gradients costs one
            backward pass.
        heads: parameters that are not shared; they get the plain gradient of the sum of the losses.
        group: process group; the default one if there is one.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        operator: Operator | Weighting,
        heads: Iterable[Tensor] = (),
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if not isinstance(operator, Operator | Weighting):
            raise ValueError(f"operator must be an Operator or a Weighting, got {operator!r}")
        self.flat = Flat(parameters)
        own = [p for p in heads if p.requires_grad]
        self.heads = Flat(own) if own else None
        self.operator = operator
        self.group = group
        self.gradients: Tensor | None = None

    def __call__(self, losses: Losses | Tensor) -> Tensor:
        """Back-propagate and combine.

        Args:
            losses: dict, list or vector of m losses, always in the same order.

        Returns:
            The m loss values, detached, averaged over the processes.

        Raises:
            ValueError: a loss or a gradient is not finite, or a loss is not a scalar. The shared parameters'
                ``.grad`` is as it was.
        """
        items = listed(losses)
        if isinstance(self.operator, Weighting) and not self.operator.needs_gradients:
            return self._weighted_sum(items)
        values = self.collect(items)
        assert self.gradients is not None
        if isinstance(self.operator, Weighting):
            _check_losses(values)
            update = self.operator(values, self.gradients).to(self.gradients.dtype) @ self.gradients
            _check_gradient(update)
        else:
            update = self.operator(self.gradients, values)
        self.flat.assign(update)
        return values

    def collect(self, losses: Losses | Tensor) -> Tensor:
        """Fill ``gradients`` (m, N), row by row, and the heads' ``.grad``; returns the loss values."""
        items = listed(losses)
        shape = (len(items), self.flat.size)
        if self.gradients is None or self.gradients.shape != shape:
            self.gradients = self.flat.zeros(len(items))
        values, last = [], len(items) - 1
        head_total = None if self.heads is None else self.heads.zeros()
        for i, (item, row) in enumerate(zip(items, self.gradients)):
            loss = evaluate(item)
            values.append(loss.detach())
            retain = not callable(item) and i < last
            if head_total is None:
                self.flat.gradient(loss, row, retain_graph=retain)
            else:
                self._with_heads(loss, row, head_total, retain)
        average(self.gradients, self.group)
        if self.heads is not None and head_total is not None:
            average(head_total, self.group)
            self.heads.assign(head_total)
        stacked = torch.stack(values)
        average(stacked, self.group)
        return stacked

    def _with_heads(self, loss: Tensor, row: Tensor, head_total: Tensor, retain: bool) -> None:
        assert self.heads is not None
        if not loss.requires_grad:
            row.zero_()
            return
        count = len(self.flat.parameters)
        found = torch.autograd.grad(
            loss, self.flat.parameters + self.heads.parameters, retain_graph=retain, allow_unused=True
        )
        self.flat.write(found[:count], row)
        for view, gradient in zip(self.heads.views(head_total), found[count:]):
            if gradient is not None:
                view += gradient

    def _weighted_sum(self, items: list[Loss]) -> Tensor:
        losses = torch.stack([evaluate(item) for item in items])
        values = losses.detach().clone()
        average(values, self.group)
        _check_losses(values)
        if self.heads is not None:
            self._assign_gradient(self.heads, losses.sum(), retain_graph=True)
        self._assign_gradient(self.flat, (self.operator(values) * losses).sum())
        return values

    def _assign_gradient(self, flat: Flat, loss: Tensor, retain_graph: bool = False) -> None:
        total = flat.zeros()
        flat.gradient(loss, total, retain_graph)
        average(total, self.group)
        _check_gradient(total)
        flat.assign(total)


def _check_losses(values: Tensor) -> None:
    """Raise ValueError if a loss is not finite: a weighting would take it into its state."""
    finite = values.isfinite()
    if not bool(finite.all()):
        broken = ", ".join(str(i) for i, good in enumerate(finite.tolist()) if not good)
        raise ValueError(f"loss {broken} (counted from 0) is not finite")


def _check_gradient(gradient: Tensor) -> None:
    """Raise ValueError if the combined gradient holds NaN or infinity; as a rule one sum tells that it does not."""
    if not bool(gradient.sum().isfinite()) and not bool(gradient.isfinite().all()):
        raise ValueError("the gradient of the weighted losses is not finite")


def backward(losses: Losses | Tensor, parameters: Iterable[Tensor], operator: Operator | Weighting) -> Tensor:
    """Put the combined gradient of ``losses`` into the parameters' ``.grad``; ``Backward`` in one call.

    Args:
        losses: dict, list or vector of scalar losses, or functions that return them.
        parameters: of any module.
        operator: a gradient operator or a weighting.

    Returns:
        The loss values, detached.
    """
    return Backward(parameters, operator)(losses)
