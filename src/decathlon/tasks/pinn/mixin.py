"""Conflict-free training inside a LightningModule (manual optimization)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from decathlon.distributed import average
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.backward import Backward
from decathlon.tasks.pinn.flat import Flat
from decathlon.tasks.pinn.losses import Loss, check_gradient, evaluate
from decathlon.tasks.pinn.method_config import build_method
from decathlon.tasks.pinn.momentum import MConFIG
from decathlon.tasks.pinn.operators.gram import cosines_with
from decathlon.tasks.pinn.outer import outer_optimizer
from decathlon.tasks.pinn.schedule import Schedule, constant
from decathlon.tasks.pinn.timing import StepTimer
from decathlon.tasks.pinn.weightings import Weighting

Again = Callable[[], Mapping[str, Tensor]]


class ConflictFreeMixin:
    """Gives a LightningModule one optimisation step for several losses, by any method config.

    ::

        class Net(ConflictFreeMixin, LightningModule):
            def __init__(self, method, lr):
                super().__init__()
                self.net = ...
                self.setup_conflict(method, ["pde", "data"], lr)

            def training_step(self, batch, index):
                found = self.conflict_step({"pde": lambda: ..., "data": lambda: ...})
                self.log_dict({f"train/{name}": value for name, value in found.items()})

    A method config is either an operator or a weighting (followed by Adam, or by its ``optimizer``), or ``MConFIG``
    with the config of its ``operator``; ``clip_norm`` bounds the norm of the combined gradient. The mix-in defines
    ``configure_optimizers``, sets the learning rate of every step, and saves its state with the checkpoint.
    ``trainer.global_step`` counts the calls of ``conflict_step``.
    """

    def setup_conflict(
        self,
        method: Mapping[str, Any],
        losses: Sequence[str],
        lr: float,
        schedule: Schedule | None = None,
        parameters: Iterable[Tensor] | None = None,
        heads: Iterable[Tensor] = (),
        log_every: int = 100,
        head_lr: float | None = None,
        coefficients: Iterable[Tensor] = (),
        coefficient_lr: float | None = None,
    ) -> None:
        """Build the method. Call it in the constructor, after the network.

        Args:
            method: a method config: ``class``, keyword arguments, optional ``clip_norm``, optional ``optimizer`` (class
                and options of a torch optimizer, for example AdamW with ``weight_decay``; L-BFGS for the plain sum).
            losses: names of the losses, in the operator's order.
            lr: learning rate, constant unless there is a ``schedule``.
            schedule: learning rate by step, from 0.
            parameters: the shared parameters; all of the module's by default.
            heads: parameters that get the plain gradient of the sum of the losses, by Adam.
            log_every: cosines are measured every so many steps; 0: never. For a weighting this costs m
                backward passes, for M-ConFIG it evaluates every loss.
            head_lr: learning rate of the heads under M-ConFIG (Adam, constant); ``lr`` by default.
            coefficients: those of the shared parameters that have a learning rate of their own, as the unknown
                coefficients of an equation.
            coefficient_lr: their highest learning rate; it follows the schedule in proportion. ``lr`` by default.

        Raises:
            ConfigError: the method cannot be built, or an option has no effect with it.
        """
        self.automatic_optimization = False
        self.loss_names = list(losses)
        self.log_every = log_every
        self.conflict_steps = 0
        self._schedule = constant(lr) if schedule is None else schedule
        options = dict(method)
        self._clip_norm, outer = options.pop("clip_norm", None), options.pop("optimizer", None)
        self._heads = list(dict.fromkeys(heads))
        chosen = self.parameters() if parameters is None else parameters  # type: ignore[attr-defined]
        own = set(self._heads)
        shared = [p for p in dict.fromkeys(chosen) if p not in own]
        groups, self._factors = _groups(shared, list(coefficients), lr, coefficient_lr)
        self._method = build_method(options, groups, len(self.loss_names))
        self._head_optimizer: Optimizer | None = None
        self._backward: Backward | None = None
        self._optimizer: Optimizer
        if isinstance(self._method, MConFIG):
            for name, value in (("clip_norm", self._clip_norm), ("optimizer", outer)):
                if value is not None:
                    raise ConfigError(f"method.{name} has no effect with M-ConFIG, which is an optimizer itself: null")
            self._optimizer = self._method
            if any(p.requires_grad for p in self._heads):
                rate = lr if head_lr is None else head_lr
                self._head_optimizer = torch.optim.Adam(self._heads, lr=rate, foreach=True)
        else:
            if head_lr is not None:
                raise ConfigError("head_lr is for M-ConFIG; other methods train the heads at the same rate")
            self._backward = Backward(shared, self._method, self._heads)
            first, *rest = groups if isinstance(groups[0], dict) else [{"params": groups}]
            first = {**first, "params": [*first["params"], *self._heads]}
            self._optimizer = outer_optimizer(outer, [first, *rest], lr, self._method, self._clip_norm)
        self._timer = StepTimer(len(self.loss_names) if isinstance(self._method, MConFIG) else 1)
        self._flat = Flat(shared)
        self._rows: Tensor | None = None  # gradients of the losses, where cosines are measured

    def configure_optimizers(self) -> list[Optimizer]:
        """The optimizer of the shared parameters, and under M-ConFIG that of the heads.

        Raises:
            ConfigError: the trainer shards parameters or scales losses.
        """
        check_trainer(self.trainer)  # type: ignore[attr-defined]
        return [self._optimizer] if self._head_optimizer is None else [self._optimizer, self._head_optimizer]

    def conflict_step(self, losses: Mapping[str, Loss], again: Again | None = None) -> dict[str, Tensor]:
        """One optimisation step.

        Args:
            losses: name -> scalar tensor, or function returning one, for every loss of ``setup_conflict``.
                M-ConFIG evaluates only the functions whose turn it is.
            again: returns all the losses on the same batch after the step; FAMO and L-BFGS need it where the losses
                are tensors and not functions.

        Returns:
            Detached scalars: name -> value for the losses that were evaluated, and every ``log_every`` steps
            ``cos_raw/name`` and ``cos_step/name``: the cosine of the loss's gradient with the combined
            gradient, and with the parameter step that was really made (positive: that loss goes down).
            ``cos_step`` is missing where the parameters did not move.

        Raises:
            ValueError: other losses than announced.
            NotFiniteError: a loss or a gradient is not finite. Parameters, optimizer and method are as they were (in
                the course of L-BFGS's line search: the parameters may be at its last trial).
        """
        if list(losses) != self.loss_names:
            raise ValueError(f"losses {list(losses)} given, expected {self.loss_names} in this order")
        self._timer.begin()
        rate = self._schedule(self.conflict_steps)
        for group, factor in zip(self._optimizer.param_groups, self._factors):
            group["lr"] = rate * factor
        measured = self.log_every > 0 and self.conflict_steps % self.log_every == 0
        self._flat.follow()
        before = self._flat.copy() if measured else None
        if self._backward is None:
            found, extra = self._momentum_step(losses, measured)
        elif isinstance(self._optimizer, LBFGS):
            found, extra = self._searched_step(losses, measured, again)
        else:
            found, extra = self._plain_step(losses, measured, again)
        if before is not None:
            extra.update(self._cosines("cos_step", before - self._flat.copy()))
        on_gpu = self._flat.device.type == "cuda"
        self._timer.end(self.conflict_steps, self.log_every, torch.cuda.synchronize if on_gpu else None)
        self.conflict_steps += 1
        return {**found, **extra}

    @property
    def seconds_per_step(self) -> float:
        """Mean wall time of a step without its measurements (see ``StepTimer``); NaN if none was timed."""
        return self._timer.mean

    def on_validation_start(self) -> None:
        """An evaluation does not count as time of the steps around it."""
        super().on_validation_start()  # type: ignore[misc]
        self._timer.interrupt()

    def _plain_step(
        self, losses: Mapping[str, Loss], measured: bool, again: Again | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self._backward is not None
        weighting = self._backward.operator if isinstance(self._backward.operator, Weighting) else None
        given: Mapping[str, Loss] = losses
        if measured and weighting is not None and not weighting.needs_gradients:
            given = self._probed(losses)
        found = dict(zip(self.loss_names, self._backward(given)))
        extra: dict[str, Tensor] = {}
        if measured:
            if self._backward.gradients is not None:
                self._rows = self._backward.gradients
            combined = self._flat.zeros()
            self._flat.write([p.grad for p in self._flat.parameters], combined)
            extra = self._cosines("cos_raw", combined)
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._flat.parameters, self._clip_norm)
        self._stepped().step()
        if weighting is not None and weighting.needs_after_step:
            weighting.after_step(self._losses_again(losses, again))
        return found, extra

    def _searched_step(
        self, losses: Mapping[str, Loss], measured: bool, again: Again | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A step of L-BFGS, which evaluates the sum of the losses several times."""
        if again is None and not all(callable(loss) for loss in losses.values()):
            raise ValueError("L-BFGS needs the losses again in its search: give again= or functions")
        extra: dict[str, Tensor] = {}
        if measured:
            tensors = self._probed(losses)
            losses = losses if again is None else tensors
            assert self._rows is not None
            extra = self._cosines("cos_raw", self._rows.sum(dim=0))
        values: list[Tensor] = []

        def closure() -> Tensor:
            assert self._backward is not None
            values.append(self._backward(losses if again is None or not values else again()))
            return values[-1].sum()

        self._stepped().step(closure)
        return dict(zip(self.loss_names, values[0])), extra

    def _momentum_step(self, losses: Mapping[str, Loss], measured: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        optimizer = self._optimizer
        assert isinstance(optimizer, MConFIG)
        if measured:
            losses = self._probed(losses)
        if self._head_optimizer is not None:
            tensors = {name: evaluate(loss) for name, loss in losses.items()}
            losses = tensors
            flat = Flat(self._heads)
            row = flat.zeros()
            flat.gradient(torch.stack(list(tensors.values())).sum(), row, retain_graph=True)
            average(row)
            check_gradient(row, "the heads")
            flat.assign(row)
        values = optimizer.refresh(losses)
        self._stepped().step()
        if self._head_optimizer is not None:
            self._head_optimizer.step()
        found = {self.loss_names[i]: value for i, value in sorted(values.items())}
        return found, self._cosines("cos_raw", optimizer.direction) if measured else {}

    def _probed(self, losses: Mapping[str, Loss]) -> dict[str, Tensor]:
        """Evaluate all losses and take their gradients for the cosines only; the graphs are kept."""
        tensors = {name: evaluate(loss) for name, loss in losses.items()}
        self._rows = self._flat.zeros(len(tensors))
        for row, loss in zip(self._rows, tensors.values()):
            self._flat.gradient(loss, row, retain_graph=True)
        average(self._rows)
        return tensors

    def _stepped(self) -> Any:
        """The optimizer as Lightning wraps it (it counts the steps); the bare one outside a Trainer."""
        if getattr(self, "_trainer", None) is None:
            return self._optimizer
        wrapped = self.optimizers()  # type: ignore[attr-defined]
        return wrapped[0] if isinstance(wrapped, list) else wrapped

    @torch.no_grad()
    def _losses_again(self, losses: Mapping[str, Loss], again: Again | None) -> Tensor:
        if again is not None:
            values = list(again().values())
        elif all(callable(loss) for loss in losses.values()):
            values = [evaluate(loss) for loss in losses.values()]
        else:
            raise ValueError("this method needs the losses again after the step: give again= or functions")
        stacked = torch.stack(values)
        average(stacked)
        return stacked

    def _cosines(self, label: str, vector: Tensor) -> dict[str, Tensor]:
        assert self._rows is not None
        if not bool(vector.any()):
            return {}
        found = zip(self.loss_names, self._rows, cosines_with(vector, self._rows))
        return {f"{label}/{name}": value.float().to(vector.device) for name, row, value in found if bool(row.any())}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the step counter, the timing and the operator's state (M-ConFIG's is its optimizer's)."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        state: dict[str, Any] = {
            "steps": self.conflict_steps,
            "seconds": self._timer.seconds,
            "timed": self._timer.steps,
        }
        if not isinstance(self._method, MConFIG):
            state["method"] = self._method.state_dict()
        checkpoint["conflict"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what ``on_save_checkpoint`` stored."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        state = checkpoint["conflict"]
        self.conflict_steps = state["steps"]
        self._timer.seconds, self._timer.steps = state["seconds"], state["timed"]
        self._timer.interrupt()
        if not isinstance(self._method, MConFIG):
            self._method.load_state_dict(state["method"])


def check_trainer(trainer: Any) -> None:
    """Refuse what cannot be combined with gradients taken loss by loss.

    Raises:
        ConfigError: parameters are sharded over devices, or losses are scaled for half precision.
    """
    strategy = type(trainer.strategy).__name__
    if any(word in strategy for word in ("FSDP", "ModelParallel", "DeepSpeed")):
        raise ConfigError(f"conflict-free gradients need whole parameters on each device, not {strategy}: use ddp")
    if str(trainer.precision) in ("16-mixed", "16"):
        raise ConfigError("precision=16-mixed scales losses, which these methods do not: use 32-true or bf16-mixed")


def _groups(
    shared: list[Tensor], coefficients: list[Tensor], lr: float, coefficient_lr: float | None
) -> tuple[Any, list[float]]:
    """The shared parameters, in two groups if the coefficients have their own rate; each group's factor of the rate."""
    if coefficient_lr is None or not coefficients:
        return shared, [1.0]
    if not (lr > 0 and coefficient_lr >= 0):
        raise ConfigError(f"coefficient_lr={coefficient_lr} must not be negative, and lr={lr} must be positive")
    own = set(coefficients)
    if not own <= set(shared):
        raise ConfigError("coefficients must be among the shared parameters")
    others = [p for p in shared if p not in own]
    ordered = [p for p in shared if p in own]
    return [{"params": others}, {"params": ordered}], [1.0, coefficient_lr / lr]
