"""What the optimizers have in common whose moments live in a subspace of each weight's gradient."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from decathlon import distributed
from decathlon.tasks.osd.optimizers.parameters import (
    check_parameter,
    check_rank,
    check_rule_options,
    gradient_norms,
    name_of,
    upright,
    working_dtype,
)
from decathlon.tasks.osd.optimizers.rules import Rule, State, check_rule, rule
from decathlon.tasks.osd.optimizers.shards import cut, gathered, is_sharded, local, whole
from decathlon.tasks.osd.subspaces import AT_RANDOM, subspace

Group = dict[str, Any]
MOMENTS = ("float32", "weight")


class ProjectedOptimizer(torch.optim.Optimizer):
    """An inner rule in a subspace of rank k for the matrices of groups with a ``rank``, at full rank for the others.

    A weight W, and so its gradient G, is taken as (n, m) with n <= m: a matrix with more rows than columns is
    transposed, and a square one too. With the projection P (n, k) of the weight, one step is

        R = P' G,    U = rule(R),    W <- W - lr scale P U - lr weight_decay W.

    Where P is from, and how it moves, is what subclasses say: ``_aim`` before the projection, ``_move`` after W moved.

    P, its own optimizer's state and all that is computed are float32 for weights in half precision.

    Weights may be shared out among processes (FSDP2, ``decathlon.tasks.osd.shard``): moments then are too, and
    ``state_dict`` and ``load_state_dict``, which every process calls, have whole tensors as without; the first process
    alone gets them.

    Args:
        params: as for any optimizer; a group with ``rank`` is projected (``low_rank_groups`` makes them).
        defaults: options of the groups; those that every subclass has are below.
        lr: of the groups. inner: ``adam``, ``adam8bit``, ``lion``, ``adafactor``, ``momentum`` or ``sgd``.
        betas, eps: of the inner rule; None: its usual ones.
        weight_decay: decoupled. scale: factor of the projected weights' updates.
        moments: dtype of the inner rule's moments, ``float32`` or the ``weight``'s own.
        seed: of random subspaces.

    Raises:
        ValueError: one line, for options that cannot be, and for parameters that cannot be projected.
    """

    shardable: ClassVar[bool] = True  # whether a step can be made from the parts of a weight
    loads_whole: ClassVar[bool] = True  # load_state_dict takes whole tensors for weights that are shared out

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._updated: set[Tensor] = set()
        self._hooks: list[Any] = []
        super().__init__(params, {"rank": None, "moments": "float32", "seed": 0, **defaults})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # loading a state dict comes this way too: what is there stays
        self.__dict__.setdefault("_updated", set())
        self.__dict__.setdefault("_hooks", [])

    # ---------------------------------------------------------------- groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name, value in group.items():  # NumPy's numbers could not be loaded again with weights_only
            if not isinstance(value, (Tensor, list, tuple)) and hasattr(value, "item"):
                group[name] = value.item()
        try:
            self._check(group)
        except ValueError:
            self.param_groups.pop()
            raise
        group["peak_lr"] = float(group["lr"])  # a schedule starts below it

    def _check(self, group: Group) -> None:
        """Raises ValueError, in one line, for a group that cannot be."""
        for name in ("lr", "weight_decay", "scale"):
            if not 0 <= float(group[name]) < math.inf:
                raise ValueError(f"{name}={group[name]} must be a number that is not negative")
        check_rule(group["inner"], "inner")
        check_rule_options(group["betas"], group["eps"])
        if group["moments"] not in MOMENTS:
            raise ValueError(f"moments={group['moments']} is unknown; choose {', '.join(MOMENTS)}")
        if group["rank"] is not None:
            group["rank"] = check_rank(group["rank"])
        for index, p in enumerate(group["params"]):
            name = name_of(group, index)
            check_parameter(p, name, projected=group["rank"] is not None)
            if is_sharded(p):
                self._check_sharded(group, name)
            if group["moments"] == "weight" and p.dtype == torch.float16:
                raise ValueError(f"moments=weight: squares of gradients are no float16 numbers ({name}); use float32")

    def _check_sharded(self, group: Group, name: str) -> None:
        whole_matrices = [] if self.shardable else [type(self).__name__]
        whole_matrices += [f"inner={group['inner']}"] if group["inner"] in ("adafactor", "adam8bit") else []
        if whole_matrices:
            raise ValueError(f"{whole_matrices[0]} needs whole matrices, and {name} is shared out: use DDP")

    def _index(self, p: Tensor) -> int:
        """The place of a parameter among all: what its random numbers are keyed by."""
        count = 0
        for group in self.param_groups:
            for other in group["params"]:
                if other is p:
                    return count
                count += 1
        raise ValueError("this optimizer does not have the parameter")

    # ---------------------------------------------------------------- steps

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step with the gradients that are there.

        Raises:
            FloatingPointError: one line, a gradient is not finite; nothing has moved then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._hooks:
            self._end_of_backward()
            return loss
        found = [
            (p, group, name_of(group, index))
            for group in self.param_groups
            for index, p in enumerate(group["params"])
            if p.grad is not None
        ]
        norms = gradient_norms([(p.grad, name) for p, _, name in found])
        for (p, group, _), norm in zip(found, norms):
            self._update(p, p.grad, group, norm)
        return loss

    def _update(self, p: Tensor, gradient: Tensor, group: Group, norm: float) -> None:
        state = self.state[p]
        state["step"] = state.get("step", 0) + 1
        if group["rank"] is None:
            self._update_whole(p, gradient, group, state)
        else:
            self._update_projected(p, gradient, group, state, norm)

    def _update_whole(self, p: Tensor, gradient: Tensor, group: Group, state: State) -> None:
        inner = self._inner(group)
        if state["step"] == 1:
            inner.start(state, "", torch.empty_like(local(p), dtype=_moment_dtype(p, group)))
        direction = inner.direction(state, "", local(gradient).to(_moment_dtype(p, group)), state["step"])
        self._step_whole(local(p), group, direction, 1.0)

    @staticmethod
    def _step_whole(weight: Tensor, group: Group, update: Tensor, factor: float) -> None:
        """``W <- (1 - lr weight_decay) W - lr factor update``, with an update of the weight's own shape."""
        lr = float(group["lr"])
        if group["weight_decay"]:
            weight.mul_(1 - lr * float(group["weight_decay"]))
        weight.add_(update, alpha=-lr * factor)

    def _update_projected(self, p: Tensor, gradient: Tensor, group: Group, state: State, norm: float) -> None:
        oriented = upright(local(gradient), p).to(working_dtype(p))  # (n, m), or this process's columns of it
        fresh = "projection" not in state
        self._aim(p, oriented, group, state)
        projection: Tensor = state["projection"]
        projected = projection.mT @ oriented
        inner = self._inner(group)
        dtype = _moment_dtype(p, group)
        if fresh:
            inner.start(state, "", torch.empty_like(projected, dtype=dtype))
        direction = inner.direction(state, "", projected.to(dtype), state["step"]).to(projected.dtype)
        self._apply(upright(local(p), p), group, state, oriented, projected, direction)
        self._move(p, group, state, oriented, projected, norm, fresh)

    def _apply(
        self, weight: Tensor, group: Group, state: State, gradient: Tensor, projected: Tensor, direction: Tensor
    ) -> None:
        """Move the ``weight`` (n, m): ``W <- (1 - lr weight_decay) W - lr scale P U``."""
        lr = float(group["lr"])
        keep, factor = 1 - lr * float(group["weight_decay"]), -lr * float(group["scale"])
        if weight.dtype == direction.dtype:
            weight.addmm_(state["projection"], direction, beta=keep, alpha=factor)
        else:
            weight.mul_(keep).add_(state["projection"] @ direction, alpha=factor)

    def _aim(self, p: Tensor, gradient: Tensor, group: Group, state: State) -> None:
        """See to it that ``state["projection"]`` (n, k) is there, before the ``gradient`` (n, m) is projected."""
        raise NotImplementedError

    def _subspace(self, how: str, p: Tensor, gradient: Tensor, group: Group, key: tuple[object, ...]) -> Tensor:
        """A projection (n, k) for a weight, from its whole gradient or at random."""
        if is_sharded(p) and how not in AT_RANDOM:
            assert p.grad is not None
            gradient = upright(whole(p.grad)).to(working_dtype(p))
        found = subspace(how, gradient, min(group["rank"], len(gradient)), key)
        if is_sharded(p):  # an SVD need not give the same digits on another device
            torch.distributed.broadcast(found, group_src=0, group=p.device_mesh.get_group())  # type: ignore[attr-defined]
        return found

    def _move(
        self, p: Tensor, group: Group, state: State, gradient: Tensor, projected: Tensor, norm: float, fresh: bool
    ) -> None:
        """Move the projection, after the weight. ``fresh``: it was made at this very step."""

    def _inner(self, group: Group) -> Rule:
        return rule(group["inner"], group["betas"], group["eps"])

    # ---------------------------------------------------------------- updates inside the backward pass

    def step_in_backward(self) -> None:
        """Update each parameter as soon as its gradient is there, and free that: one gradient is alive at a time.

        The loop stays as it is: ``step()`` then only ends the step. There is no gradient left to clip by its global
        norm, and none to accumulate: a second backward pass before ``step()`` is an error.

        Raises:
            RuntimeError: one line, among several processes, whose gradients are not averaged yet at that time.
        """
        if distributed.world_size() > 1:
            raise RuntimeError("updates inside the backward pass see the gradients of one process only: use step()")
        for group in [] if self._hooks else self.param_groups:
            for index, p in enumerate(group["params"]):
                if p.requires_grad:
                    hook = self._hook(group, name_of(group, index))
                    self._hooks.append(p.register_post_accumulate_grad_hook(hook))

    def _hook(self, group: Group, name: str) -> Callable[[Tensor], None]:
        place = next(i for i, other in enumerate(self.param_groups) if other is group)

        @torch.no_grad()
        def update(p: Tensor) -> None:
            if p in self._updated:
                raise RuntimeError(
                    f"{name} was updated inside the backward pass before: gradients cannot be accumulated over several "
                    "passes with step_in_backward(); call step() after each"
                )
            assert p.grad is not None
            self._updated.add(p)
            # Not `group` itself: loading a state dict replaces it.
            self._update(p, p.grad, self.param_groups[place], gradient_norms([(p.grad, name)])[0])
            p.grad = None

        return update

    def _end_of_backward(self) -> None:
        if not self._updated:
            raise RuntimeError("step() without a backward pass: with step_in_backward() that is where weights move")
        self._updated.clear()

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """As in torch; where weights are shared out, whole tensors on the CPU of the first process, none in others.

        All processes must call it.
        """
        found = super().state_dict()
        ours = [p for group in self.param_groups for p in group["params"]]
        return {**found, "state": {index: gathered(state, ours[index]) for index, state in found["state"].items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but every tensor keeps its dtype: float32 beside weights in half precision, codes as bytes.

        Of whole tensors each process takes its part where weights are shared out.
        """
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        ours = [p for group in self.param_groups for p in group["params"]]
        # torch itself says what is wrong where the numbers of parameters differ.
        parts = {i: cut(state_dict["state"][i], p) for i, p in zip(saved, ours) if i in state_dict["state"]}
        super().load_state_dict({**state_dict, "state": {**state_dict["state"], **parts}})
        for index, p in zip(saved, ours):
            for name, value in parts.get(index, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.detach().to(p.device, copy=True)

    def allocate(self) -> None:
        """Make the whole state of parameters on the meta device, to count its bytes (``state_bytes``).

        Raises:
            ValueError: one line, if a parameter has data: its subspace is found from its gradient, in ``step``.
        """
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                if not p.is_meta:
                    raise ValueError(f"{name_of(group, index)} is not on the meta device")
                with torch.no_grad():
                    self._update(p, torch.empty_like(p), group, 1.0)


def _moment_dtype(p: Tensor, group: Group) -> torch.dtype:
    return p.dtype if group["moments"] == "weight" else working_dtype(p)
