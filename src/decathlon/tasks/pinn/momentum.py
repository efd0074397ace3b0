"""M-ConFIG: one loss is back-propagated per step, the operator acts on the momenta of the losses."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from decathlon.distributed import average
from decathlon.tasks.pinn.flat import Flat
from decathlon.tasks.pinn.losses import Losses, LossOrder, evaluate
from decathlon.tasks.pinn.momentum_state import check_finite, check_options, check_state, moments
from decathlon.tasks.pinn.operators.base import GramOperator, Operator
from decathlon.tasks.pinn.operators.conflict_free import ConFIG
from decathlon.tasks.pinn.operators.gram import as_real, combine, gramian

_GROUP = ("lr", "betas", "eps", "weight_decay")
_NUMBERS = ("seen", "turn", "updates")
_OWN = (
    *("num_losses", "updates_per_step", "group", "operator", "flat", "order", *_NUMBERS),
    *("_buffers", "_scratch", "_refreshed", "_reached"),
)


class MConFIG(Optimizer):
    """Momentum ConFIG (Algorithm 1 of arXiv 2408.11104), an Adam-like optimizer for m losses.

    Each loss i has a momentum ``m_i = beta1 m_i + (1 - beta1) grad L_i`` and a counter t_i. In a step the
    loss whose turn it is (index 1, 2, ..., m - 1, 0, ... as in the official code) refreshes its momentum;
    then, once every loss was seen::

        mh_j = m_j/(1 - beta1^t_j),  mh = operator(mh_1, ..., mh_m)
        M' = (1 - beta1^t) mh,  g = (M' - beta1 M)/(1 - beta1),  V = beta2 V + (1 - beta2) g^2
        theta -= lr weight_decay theta + lr mh/(sqrt(V/(1 - beta2^t)) + eps)

    where t counts the updates. The first steps, until every loss was seen, do not move theta. With one loss it
    is AdamW. Memory: (m + 3) N numbers, in float32 for half precision. No other optimizer goes on top. ::

        optimizer = MConFIG(model.parameters(), lr=1e-3, num_losses=2)
        for batch in batches:
            optimizer.step([lambda: data_loss(batch), lambda: physics_loss(batch)])  # only one of them is
            evaluated

    In a distributed run gradients are averaged over the processes before they enter the momenta. A dict of losses
    may come in any order: they are known by name, and indices count in the order of the first one. Complex
    parameters are pairs of real ones. Parameters cannot be added, frozen or unfrozen: the layout is fixed.

    Args:
        params: parameters, or groups of them with their own ``lr`` and ``weight_decay``.
        lr: learning rate; being shared by m losses in turn it is usually larger than Adam's.
        num_losses: m.
        betas, eps: of the moments.
        updates_per_step: how many losses are refreshed per step (1 to m).
        operator: combines the momenta; ConFIG by default (PCGrad gives M-PCGrad, ...).
        group: process group; the default one if there is one.
        weight_decay: decoupled, as in AdamW.

    Raises:
        ValueError: an argument is out of range.
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
        weight_decay: float = 0.0,
    ) -> None:
        if num_losses < 1:
            raise ValueError(f"num_losses={num_losses} must be at least 1")
        if not 1 <= updates_per_step <= num_losses:
            raise ValueError(f"updates_per_step={updates_per_step} must be from 1 to num_losses={num_losses}")
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        check_options(options)
        super().__init__(params, options)
        self.num_losses, self.updates_per_step = int(num_losses), int(updates_per_step)
        self.group = group
        self.operator = ConFIG() if operator is None else operator
        if not isinstance(self.operator, Operator):
            raise ValueError(f"operator must be a gradient operator, got {operator!r}")
        self.flat = Flat(p for param_group in self.param_groups for p in param_group["params"])
        self.order = LossOrder()
        self.seen = [0] * self.num_losses
        self.turn = 1 % self.num_losses
        self.updates = 0
        self._buffers: dict[str, Tensor] = {}
        self._scratch: Tensor | None = None
        self._refreshed = False  # a momentum since the last update
        self._reached = False  # a loss that depends on the parameters

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "flat"):
            raise ValueError("parameters cannot be added to M-ConFIG: its momenta have one fixed layout")
        known = {"params", "param_names", "name", "initial_lr", *_GROUP}
        unknown = [str(key) for key in param_group if key not in known]
        if unknown:
            raise ValueError(f"M-ConFIG's parameter groups have no option {unknown[0]}; choose {', '.join(_GROUP)}")
        super().add_param_group(param_group)
        check_options(self.param_groups[-1])

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

        Raises:
            ValueError: neither losses nor ``refresh``, or what ``refresh`` raises.
        """
        with torch.enable_grad():
            losses = closure() if callable(closure) else closure
        if losses is None and not self._refreshed:
            raise ValueError(
                "M-ConFIG takes its gradients itself: step(losses) or refresh(losses), not loss.backward()"
            )
        values = {} if losses is None else self.refresh(losses)
        self._update()
        return values

    @torch.enable_grad()
    def refresh(self, losses: Losses | Tensor) -> dict[int, Tensor]:
        """Back-propagate the losses whose turn it is into their momenta; theta stays.

        Returns:
            Their values, detached and averaged over the processes, by index.

        Raises:
            ValueError: another number of losses, other names, or parameters were frozen or unfrozen.
            NotFiniteError: a loss or its gradient is not finite. Its momentum is as it was, and its turn stays;
                losses before it in the same step are refreshed.
        """
        if self.flat.changed:
            raise ValueError("parameters were frozen or unfrozen after MConFIG was made: make a new one")
        items = self.order.arranged(losses, count=self.num_losses)
        beta1, buffers, scratch = self._betas[0], self._allocated(), self._scratch
        assert scratch is not None
        due = self.due
        shared_graph = {i for i in due if not callable(items[i])}
        found: dict[int, Tensor] = {}
        try:
            for i in due:
                loss = evaluate(items[i])
                shared_graph.discard(i)
                reached = self.flat.gradient(loss, scratch, retain_graph=bool(shared_graph))
                average(scratch, self.group)
                value = loss.detach().clone()
                average(value, self.group)
                check_finite(i, value, scratch)
                buffers["momenta"][i].lerp_(scratch, 1 - beta1)
                buffers["values"][i] = value
                self.seen[i] += 1
                self._reached |= reached
                found[i] = value
        finally:
            self._refresh_gram(list(found))
            self.turn = (self.turn + len(found)) % self.num_losses
        self._refreshed = True
        return found

    def _refresh_gram(self, changed: list[int]) -> None:
        """Recompute the Gram matrix's rows of the momenta that changed; the others are still right."""
        if not changed or not isinstance(self.operator, GramOperator):
            return
        momenta, gram = self._buffers["momenta"], self._buffers["gram"]
        if 2 * len(changed) > self.num_losses:
            gram.copy_(gramian(momenta))
            return
        for i in changed:
            row = gramian(momenta, slice(i, i + 1))[0]
            gram[i] = row
            gram[:, i] = row

    def _update(self) -> None:
        self._refreshed = False
        if not all(self.seen):
            return
        if not self._reached:
            raise ValueError("no loss depends on the parameters: other ones, detached, or made under no_grad")
        updates, (beta1, beta2), eps = self.updates + 1, self._betas, self.param_groups[0]["eps"]
        correction1, correction2 = 1 - beta1**updates, 1 - beta2**updates
        buffers, step = self._buffers, self._scratch  # refresh has made them
        assert step is not None
        first, second = buffers["first"], buffers["second"]
        with self.operator.unchanged_on_error():
            self._combine(step)
        self.updates = updates
        first.mul_(-beta1 / (1 - beta1)).add_(step, alpha=correction1 / (1 - beta1))  # now g
        second.mul_(beta2).addcmul_(first, first, value=1 - beta2)
        torch.mul(step, correction1, out=first)
        torch.sqrt(second, out=step).mul_(correction2**-0.5).add_(eps)
        torch.div(first, step, out=step).div_(correction1)
        for options, moved, parts in self._by_group(step):
            rate = float(options["lr"])
            if options["weight_decay"]:
                torch._foreach_mul_(moved, 1 - rate * options["weight_decay"])
            torch._foreach_add_(moved, parts, alpha=-rate)

    def _by_group(self, step: Tensor) -> Iterator[tuple[dict[str, Any], list[Tensor], list[Tensor]]]:
        """Each group that has trained parameters, with them and their parts of the step, as real numbers."""
        views = dict(zip(self.flat.parameters, self.flat.views(step)))
        for options in self.param_groups:
            moved = [p for p in dict.fromkeys(options["params"]) if p in views]
            if moved:
                yield options, [as_real(p) for p in moved], [views[p] for p in moved]

    def _combine(self, out: Tensor) -> None:
        """operator(mh_1, ..., mh_m) into ``out``, the bias corrections folded into the coefficients."""
        momenta, values, beta1 = self._buffers["momenta"], self._buffers["values"], self._betas[0]
        scales = [1 / (1 - beta1**count) for count in self.seen]
        if not isinstance(self.operator, GramOperator):
            factors = torch.tensor(scales, dtype=momenta.dtype, device=momenta.device)
            out.copy_(self.operator(momenta * factors[:, None], values))
            return
        self.operator.observe(momenta, values)
        scale = torch.tensor(scales, dtype=torch.float64)
        gram = self._buffers["gram"]
        corrected = gram * scale * scale[:, None]
        if momenta.dtype == torch.float32 and not self.operator.well_conditioned(corrected):
            gram = gramian(momenta, exact=True)
            corrected = gram * scale * scale[:, None]
        combination = self.operator.weigh(corrected, values) * scale
        out.copy_(combine(combination, momenta, gram))

    @property
    def _betas(self) -> tuple[float, float]:
        """beta1 and beta2 of this step; a scheduler may have set them."""
        betas, *others = [(*group["betas"], group["eps"]) for group in self.param_groups]
        if any(other != betas for other in others):
            raise ValueError("M-ConFIG's parameter groups must have the same betas and eps")
        return betas[0], betas[1]

    @property
    def direction(self) -> Tensor:
        """(N,) mh, the operator's last result; zeros before the first update."""
        if self.updates == 0:
            return self._allocated()["first"].clone()
        return self._allocated()["first"] / (1 - self._betas[0] ** self.updates)

    def _allocated(self) -> dict[str, Tensor]:
        """The moments; with them there is room for one gradient or step."""
        kept = moments(self._buffers, self.flat, self.num_losses)
        if kept is not self._buffers or self._scratch is None:
            self._buffers, self._scratch = kept, torch.empty_like(kept["first"])
        return kept

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-equal continuation needs: groups, momenta, counters, names, the operator's state."""
        state = super().state_dict()
        state["momentum"] = {
            **{name: value.clone() for name, value in self._buffers.items()},
            **{name: copy.copy(getattr(self, name)) for name in _NUMBERS},
            "names": copy.copy(self.order.names),
        }
        state["operator"] = self.operator.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned.

        Raises:
            ValueError: it belongs to another optimizer, or to another number of losses or of parameters. Nothing was
                changed.
        """
        check_state(state_dict, self.num_losses, self.flat.size)
        copy.deepcopy(self.operator).load_state_dict(state_dict["operator"])  # raises before anything has changed
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        momentum, self._buffers = state_dict["momentum"], {}
        if "momenta" in momentum:
            for name, target in self._allocated().items():
                target.copy_(momentum[name])
        for name in _NUMBERS:
            setattr(self, name, copy.copy(momentum[name]))
        self.order.names = copy.copy(momentum.get("names"))
        self._refreshed, self._reached = False, self.updates > 0
        self.operator.load_state_dict(state_dict["operator"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in _OWN}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in _GROUP:
                group.setdefault(name, self.defaults[name])
