"""M-ConFIG: one loss is back-propagated per step, the operator acts on the momenta of the losses."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from decathlon.tasks.pinn.flat import Flat, Losses, average, evaluate, listed
from decathlon.tasks.pinn.operators.base import GramOperator, Operator, combine, gramian
from decathlon.tasks.pinn.operators.conflict_free import ConFIG

_TENSORS = ("momenta", "first", "second", "gram", "values")
_NUMBERS = ("seen", "turn", "updates")


class MConFIG(Optimizer):
    """Momentum ConFIG (Algorithm 1 of arXiv 2408.11104), an Adam-like optimizer for m losses.

    Each loss i has a momentum ``m_i = beta1 m_i + (1 - beta1) grad L_i`` and a counter t_i. In a step the
    loss whose turn it is (index 1, 2, ..., m - 1, 0, ... as in the official code) refreshes its momentum;
    then, once every loss was seen::

        mh_j = m_j/(1 - beta1^t_j),  mh = operator(mh_1, ..., mh_m)
        M' = (1 - beta1^t) mh,  g = (M' - beta1 M)/(1 - beta1),  V = beta2 V + (1 - beta2) g^2
        theta -= lr mh/(sqrt(V/(1 - beta2^t)) + eps)

    where t counts the updates. The first steps, until every loss was seen, do not move theta. Memory: (m + 3)
    N numbers. No other optimizer goes on top. ::

        optimizer = MConFIG(model.parameters(), lr=1e-3, num_losses=2)
        for batch in batches:
            optimizer.step([lambda: data_loss(batch), lambda: physics_loss(batch)])  # only one of them is
            evaluated

    In a distributed run gradients are averaged over the processes before they enter the momenta.

    Args:
        params: parameters, or groups of them with their own ``lr``.
        lr: learning rate; being shared by m losses in turn it is usually larger than Adam's.
        num_losses: m.
        betas, eps: of the moments.
        updates_per_step: how many losses are refreshed per step (1 to m).
        operator: combines the momenta; ConFIG by default (PCGrad gives M-PCGrad, ...).
        group: process group; the default one if there is one.

    Raises:
        ValueError: an argument is out of range, or a gradient is not finite.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        num_losses: int = 2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        updates_per_step: int = 1,
        operator: Operator | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if lr < 0:
            raise ValueError(f"lr={lr} must not be negative")
        if num_losses < 1:
            raise ValueError(f"num_losses={num_losses} must be at least 1")
        if not 1 <= updates_per_step <= num_losses:
            raise ValueError(f"updates_per_step={updates_per_step} must be from 1 to num_losses={num_losses}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must be two numbers in [0, 1)")
        super().__init__(params, {"lr": lr})
        self.num_losses, self.updates_per_step = num_losses, updates_per_step
        self.beta1, self.beta2 = betas
        self.eps, self.group = eps, group
        self.operator = ConFIG() if operator is None else operator
        if not isinstance(self.operator, Operator):
            raise ValueError(f"operator must be a gradient operator, got {operator!r}")
        self.flat = Flat(p for param_group in self.param_groups for p in param_group["params"])
        self.seen = [0] * num_losses
        self.turn = 1 % num_losses
        self.updates = 0
        self._buffers: dict[str, Tensor] = {}
        self._scratch: Tensor | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "flat"):
            raise ValueError("parameters cannot be added to M-ConFIG: its momenta have one fixed layout")
        super().add_param_group(param_group)

    @property
    def due(self) -> list[int]:
        """Indices of the losses whose turn it is in the next step."""
        return [(self.turn + k) % self.num_losses for k in range(self.updates_per_step)]

    @torch.no_grad()
    def step(self, closure: Losses | Tensor | Callable[[], Any] | None = None) -> dict[int, Tensor]:  # type: ignore[override]
        """Refresh the momenta whose turn it is, then update the parameters.

        Args:
            closure: dict or list of m losses, each a scalar tensor or a function returning one (only those
                whose turn it is are called and back-propagated); or one function that returns such a dict or
                list; or None if ``refresh`` was called.

        Returns:
            The loss values that were used, by index.
        """
        if callable(closure):
            with torch.enable_grad():
                losses = closure()
        else:
            losses = closure
        values = {} if losses is None else self.refresh(losses)
        self._update()
        return values

    @torch.enable_grad()
    def refresh(self, losses: Losses | Tensor) -> dict[int, Tensor]:
        """Back-propagate the losses whose turn it is into their momenta; theta stays.

        Returns:
            Their values, detached and averaged over the processes, by index.
        """
        items = listed(losses)
        if len(items) != self.num_losses:
            raise ValueError(f"{len(items)} losses given, MConFIG was made for num_losses={self.num_losses}")
        due, buffers, scratch = self.due, self._allocated(), self._allocated_scratch()
        shared_graph = {i for i in due if not callable(items[i])}
        found = {}
        for i in due:
            loss = evaluate(items[i])
            shared_graph.discard(i)
            self.flat.gradient(loss, scratch, retain_graph=bool(shared_graph))
            average(scratch, self.group)
            buffers["momenta"][i].lerp_(scratch, 1 - self.beta1)
            self.seen[i] += 1
            value = loss.detach().clone()
            average(value, self.group)
            buffers["values"][i] = value
            found[i] = value
        self._refresh_gram(due)
        self.turn = (self.turn + self.updates_per_step) % self.num_losses
        return found

    def _refresh_gram(self, due: list[int]) -> None:
        """Recompute the Gram matrix's rows of the momenta that changed; the others are still right."""
        if not isinstance(self.operator, GramOperator):
            return
        momenta, gram = self._buffers["momenta"], self._buffers["gram"]
        if 2 * len(due) > self.num_losses:
            gram.copy_(gramian(momenta))
            return
        for i in due:
            row = gramian(momenta, slice(i, i + 1))[0]
            gram[i] = row
            gram[:, i] = row

    def _update(self) -> None:
        if not all(self.seen):
            return
        self.updates += 1
        correction1, correction2 = 1 - self.beta1**self.updates, 1 - self.beta2**self.updates
        buffers, step = self._allocated(), self._allocated_scratch()
        first, second = buffers["first"], buffers["second"]
        self._combine(step)
        first.mul_(-self.beta1 / (1 - self.beta1)).add_(step, alpha=correction1 / (1 - self.beta1))  # now g
        second.mul_(self.beta2).addcmul_(first, first, value=1 - self.beta2)
        torch.mul(step, correction1, out=first)
        torch.sqrt(second, out=step).mul_(correction2**-0.5).add_(self.eps)
        torch.div(first, step, out=step).div_(correction1)
        views = iter(self.flat.views(step))
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.requires_grad]
            parts = [next(views).to(p.dtype) for p in moved]
            torch._foreach_add_(moved, parts, alpha=-group["lr"])

    def _combine(self, out: Tensor) -> None:
        """operator(mh_1, ..., mh_m) into ``out``, the bias corrections folded into the coefficients."""
        momenta, values = self._buffers["momenta"], self._buffers["values"]
        scales = [1 / (1 - self.beta1**count) for count in self.seen]
        if not isinstance(self.operator, GramOperator):
            factors = torch.tensor(scales, dtype=momenta.dtype, device=momenta.device)
            out.copy_(self.operator(momenta * factors[:, None], values))
            return
        self.operator.observe(momenta, values)
        scale = torch.tensor(scales, dtype=torch.float64)
        corrected = self._buffers["gram"] * scale * scale[:, None]
        if momenta.dtype == torch.float32 and not self.operator.well_conditioned(corrected):
            corrected = gramian(momenta, exact=True) * scale * scale[:, None]
        combination = self.operator.weigh(corrected, values) * scale
        out.copy_(combine(combination, momenta))

    @property
    def direction(self) -> Tensor:
        """(N,) mh, the operator's last result; zeros before the first update."""
        if self.updates == 0:
            return self._allocated()["first"].clone()
        return self._allocated()["first"] / (1 - self.beta1**self.updates)

    def _allocated(self) -> dict[str, Tensor]:
        if not self._buffers:
            count = self.num_losses
            self._buffers = {
                "momenta": self.flat.zeros(count),
                "first": self.flat.zeros(),
                "second": self.flat.zeros(),
                "gram": torch.zeros(count, count, dtype=torch.float64),
                "values": torch.zeros(count, dtype=self.flat.dtype, device=self.flat.parameters[0].device),
            }
        return self._buffers

    def _allocated_scratch(self) -> Tensor:
        if self._scratch is None:
            self._scratch = self.flat.zeros()
        return self._scratch

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-equal continuation needs: groups, momenta, counters, the operator's state."""
        state = super().state_dict()
        state["momentum"] = {
            **{name: value.clone() for name, value in self._buffers.items()},
            **{name: copy.copy(getattr(self, name)) for name in _NUMBERS},
        }
        state["operator"] = self.operator.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned.

        Raises:
            ValueError: it belongs to another number of losses or of parameters.
        """
        momentum = state_dict["momentum"]
        if len(momentum["seen"]) != self.num_losses:
            raise ValueError(f"state of {len(momentum['seen'])} losses, but num_losses={self.num_losses}")
        if "momenta" in momentum and momentum["momenta"].shape[1] != self.flat.size:
            raise ValueError(f"state of {momentum['momenta'].shape[1]} parameters, here are {self.flat.size}")
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._buffers = {}
        if "momenta" in momentum:
            for name, target in self._allocated().items():
                target.copy_(momentum[name])
        for name in _NUMBERS:
            setattr(self, name, copy.copy(momentum[name]))
        self.operator.load_state_dict(state_dict["operator"])
