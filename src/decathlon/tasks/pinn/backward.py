"""Conflict-free gradients in a plain training loop."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from decathlon.distributed import average
from decathlon.tasks.pinn.flat import Flat
from decathlon.tasks.pinn.losses import Loss, Losses, LossOrder, check_gradient, check_losses, evaluate
from decathlon.tasks.pinn.operators.base import Operator
from decathlon.tasks.pinn.operators.gram import combine
from decathlon.tasks.pinn.weightings import Weighting


class Backward:
    """Does what ``loss.backward()`` does, for several losses: puts one combined gradient into ``.grad``.

    ::

        backward = Backward(model.parameters(), ConFIG())
        for batch in batches:
            backward({"data": data_loss(batch), "physics": physics_loss(batch)})
            optimizer.step()

    Losses are scalar tensors, or functions that return one; functions are evaluated one after the other, so
    only one graph is alive at a time. ``.grad`` is replaced, not accumulated: ``zero_grad`` is not needed, and
    a batch in parts goes through ``accumulate``. A dict may come in any order: its losses are known by name.
    The gradients stay in one (m, N) buffer that is used again at each call (``gradients``). Gradients are
    taken with ``torch.autograd.grad``; in a distributed run they are averaged over the processes *before*
    they are combined, and DistributedDataParallel's own reduction takes no part. Parameters may be frozen and
    unfrozen between calls.

    Args:
        parameters: the parameters that the losses share.
        operator: a gradient operator, or a weighting. A weighting that does not look at gradients costs one
            backward pass.
        heads: parameters that are not shared; they get the plain gradient of the sum of the losses.
        group: process group; the default one if there is one.

    Raises:
        ValueError: no parameter requires a gradient, or one is shared and a head's.
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
        own = list(heads)
        self.heads = Flat(own, optional=True)
        if set(self.flat.given) & set(own):
            raise ValueError("a parameter is among the shared ones and among the heads; give it once")
        self.operator = operator
        self.group = group
        self.gradients: Tensor | None = None
        self._order = LossOrder()
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, losses: Losses | Tensor | Callable[[], Any], retain_graph: bool = False) -> Tensor:
        """Back-propagate and combine.

        Args:
            losses: dict, list or vector of m losses, or a function that returns one. A list is in the same order
                every time.
            retain_graph: keep the graphs of losses that are tensors, for another use of them.

        Returns:
            The m loss values in the order of ``losses``, detached, averaged over the processes.

        Raises:
            ValueError: a loss is not a scalar, or none depends on the parameters.
            NotFiniteError: a loss or a gradient is not finite. ``.grad`` and the operator's state are as they were.
        """
        items, places = self._arranged(losses)
        if isinstance(self.operator, Weighting) and not self.operator.needs_gradients:
            values = self._weighted_sum(items, retain_graph)
        else:
            values = self._combined(items, retain_graph)
        return values if places is None else values[places]

    def accumulate(self, losses: Losses | Tensor | Callable[[], Any]) -> Tensor:
        """Add the gradients of a part of a batch; the next call adds its own and combines the sums.

        ::

            for part in parts[:-1]:
                backward.accumulate({"data": data_loss(part) / len(parts), ...})
            backward({"data": data_loss(parts[-1]) / len(parts), ...})

        Returns:
            The loss values of this part, in the order of ``losses``.
        """
        if isinstance(self.operator, Weighting) and not self.operator.needs_gradients:
            raise ValueError(f"accumulate adds up gradients, which {type(self.operator).__name__} does not look at")
        items, places = self._arranged(losses)
        values, head_total = self._collect(items)
        assert self.gradients is not None
        if self._sums is None:
            self._sums, self.gradients = (self.gradients, values, head_total), None
        else:
            before, total, heads = self._sums
            self._check_parts(len(items), before)
            before += self.gradients
            self._sums = before, total + values, heads + head_total
        return values if places is None else values[places]

    def state_dict(self) -> dict[str, Any]:
        """The operator's state and the names of the losses that it belongs to."""
        return {"names": self._order.names, "operator": self.operator.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.operator.load_state_dict(state["operator"])
        self._order.names = state["names"]

    def _arranged(self, losses: Losses | Tensor | Callable[[], Any]) -> tuple[list[Loss], list[int] | None]:
        given = losses() if callable(losses) else losses
        items = self._order.arranged(given, fixed=self.operator.by_place or self._sums is not None)
        self.flat.follow()
        self.heads.follow()
        return items, self._order.places(given)

    def _combined(self, items: list[Loss], retain_graph: bool) -> Tensor:
        values, head_total = self._collect(items, retain_graph)
        assert self.gradients is not None
        total = values
        if self._sums is not None:
            before, losses, heads = self._sums
            self._check_parts(len(items), before)
            self.gradients += before
            total, head_total = losses + values, heads + head_total
        if isinstance(self.operator, Weighting):
            with self.operator.unchanged_on_error():
                update = combine(self.operator(total, self.gradients), self.gradients)
                check_gradient(update, "the weighted losses")
        else:
            update = self.operator(self.gradients, total)
        self._sums = None
        self.heads.assign(head_total)
        self.flat.assign(update)
        return values

    def _check_parts(self, count: int, before: Tensor) -> None:
        if before.shape != (count, self.flat.size):
            raise ValueError(
                f"{count} losses of {self.flat.size} parameters, but {tuple(before.shape)} are accumulated"
            )

    def _collect(self, items: list[Loss], retain_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Fill ``gradients`` (m, N), row by row; returns the loss values and the heads' gradient."""
        shape, dtype, device = (len(items), self.flat.size), self.flat.dtype, self.flat.device
        rows = self.gradients
        if rows is None or rows.shape != shape or rows.dtype != dtype or rows.device != device:
            rows = self.gradients = self.flat.zeros(len(items))
        values, last, depends = [], len(items) - 1, False
        head_total = self.heads.zeros()
        for i, (item, row) in enumerate(zip(items, rows)):
            loss = evaluate(item)
            values.append(loss.detach())
            retain = retain_graph or (not callable(item) and i < last)
            if not self.heads.parameters:
                depends |= self.flat.gradient(loss, row, retain_graph=retain)
            else:
                depends |= self._with_heads(loss, row, head_total, retain)
        average(rows, self.group)
        stacked = torch.stack(values)
        average(stacked, self.group)
        check_losses(stacked)
        if self.heads.parameters:
            average(head_total, self.group)
            check_gradient(head_total, "the heads")
        if not depends and not bool(rows.any()):
            raise ValueError("no loss depends on the parameters: other ones, detached, or made under no_grad")
        return stacked, head_total

    def _with_heads(self, loss: Tensor, row: Tensor, head_total: Tensor, retain: bool) -> bool:
        if not loss.requires_grad:
            row.zero_()
            return False
        count = len(self.flat.parameters)
        found = torch.autograd.grad(
            loss, self.flat.parameters + self.heads.parameters, retain_graph=retain, allow_unused=True
        )
        self.flat.write(found[:count], row)
        self.heads.add(found[count:], head_total)
        return any(g is not None for g in found)

    def _weighted_sum(self, items: list[Loss], retain_graph: bool) -> Tensor:
        losses = torch.stack([evaluate(item) for item in items])
        if not losses.requires_grad:
            raise ValueError("no loss depends on the parameters: other ones, detached, or made under no_grad")
        values = losses.detach().clone()
        average(values, self.group)
        check_losses(values)
        with self.operator.unchanged_on_error():
            head_total = self._total(self.heads, losses.sum(), retain_graph=True)
            assert isinstance(self.operator, Weighting)
            total = self._total(self.flat, (self.operator(values) * losses).sum(), retain_graph)
        self.heads.assign(head_total)
        self.flat.assign(total)
        return values

    def _total(self, flat: Flat, loss: Tensor, retain_graph: bool = False) -> Tensor:
        total = flat.zeros()
        if not flat.parameters:
            return total
        flat.gradient(loss, total, retain_graph)
        average(total, self.group)
        check_gradient(total, "the weighted losses")
        return total


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
