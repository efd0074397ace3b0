"""One decision: which tasks have come in, which vehicles are in range, and what is known of both."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.cave import steady
from decathlon.tasks.cave.folds import folded_sum

CEILING = 1 - 1e-6
"""Success probabilities are clipped here, so that no vehicle counts as certain."""
_TASKS = ("work", "weight", "upload", "result", "target")
_VEHICLES = ("speed", "rate", "hazard", "contact", "load")
_TINY = 1e-9


class Epoch:
    """The inputs of a decision for S scenarios at once, checked, in float64, and what follows from them.

    Every input is a tensor, an array, a list or a number, which then holds for all tasks or vehicles.

    Args:
        work: (S, K) cycles of each task, Gcycle.
        weight: (S, K) of each task's latency in the objective.
        upload, result: (S, K) Mbit to send and to bring back.
        target: (S, K) the probability with which each task must succeed, in (0, 1).
        speed: (S, N) compute that each vehicle offers, Gcycle/s.
        rate: (S, N) of each link, Mbit/s; 0: the vehicle cannot be reached; infinite: no link is needed.
        hazard: (S, N) at which a replica fails, 1/s.
        contact: (S, N) seconds for which the vehicle stays in range.
        load: (S, N) sum of sqrt(weight * remaining work) over the replicas that are in progress there.
        tasks, vehicles: (S, K) and (S, N) bool; False is padding.
        local: slot 0 is the ego vehicle itself. It needs no link and never leaves.
        local_reliability: its probability of success.
        inflation: factor on the nominal latency, above 1 to be cautious about tasks that join later.
        success: (S, K, N) probabilities of success instead of the model's.
        distance: (S, N) to the ego, m, for rules that go by it; None: they go by the rate.

    The success model: a replica succeeds when its vehicle neither fails nor leaves within the nominal latency T,
    p = exp(-hazard T) Phi((contact - T) / (0.1 contact + 0.2 s)). T is that of the replica if it alone joined the
    vehicle, so p does not depend on the assignment and the reliability constraint is linear in it.

    Raises:
        ValueError: a shape, a value or a dtype is wrong; one line.
    """

    def __init__(
        self,
        work: Any,
        weight: Any,
        upload: Any,
        result: Any,
        target: Any,
        speed: Any,
        rate: Any,
        hazard: Any,
        contact: Any,
        load: Any,
        tasks: Any = None,
        vehicles: Any = None,
        local: bool = False,
        local_reliability: float = 0.999,
        inflation: float = 1.0,
        success: Any = None,
        distance: Any = None,
    ) -> None:
        given: dict[str, Any] = dict(
            work=work, weight=weight, upload=upload, result=result, target=target,
            speed=speed, rate=rate, hazard=hazard, contact=contact, load=load,
        )  # fmt: skip
        self.scenarios, self.count, device = _size("work", work, tasks)
        scenarios, self.slots, other = _size("speed", speed, vehicles)
        if scenarios != self.scenarios:
            raise ValueError(f"work is for {self.scenarios} scenarios and speed for {scenarios}")
        if device != other:
            raise ValueError(f"work is on {device} and speed on {other}")
        self.device = device
        if not 0 < local_reliability < 1:
            raise ValueError(f"local_reliability={local_reliability} must lie between 0 and 1")
        if not inflation > 0:
            raise ValueError(f"inflation={inflation} must be positive")
        if local and self.slots == 0:
            raise ValueError("local=True needs slot 0 for the ego vehicle, and there are no slots")
        self.local, self.local_reliability, self.inflation = bool(local), float(local_reliability), float(inflation)
        self.tasks = self._mask("tasks", tasks, self.count)
        self.vehicles = self._mask("vehicles", vehicles, self.slots)
        for name in _TASKS:
            setattr(self, name, self._values(name, given[name], self.count, self.tasks))
        for name in _VEHICLES:
            setattr(self, name, self._values(name, given[name], self.slots, self.vehicles))
        self.distance = None
        if distance is not None:
            self.distance = self._values("distance", distance, self.slots, self.vehicles)
        self._given_success = None
        if success is not None:
            shape = (self.scenarios, self.count, self.slots)
            self._given_success = _tensor("success", success, device).double().broadcast_to(shape)
            if not bool(((self._given_success >= 0) & (self._given_success <= 1)).all()):
                raise ValueError("success must lie between 0 and 1")

    work: Tensor
    weight: Tensor
    upload: Tensor
    result: Tensor
    target: Tensor
    speed: Tensor
    rate: Tensor
    hazard: Tensor
    contact: Tensor
    load: Tensor

    def _mask(self, name: str, mask: Any, count: int) -> Tensor:
        shape = (self.scenarios, count)
        if mask is None:
            return torch.ones(shape, dtype=torch.bool, device=self.device)
        mask = torch.as_tensor(mask, device=self.device)
        if mask.dtype != torch.bool or mask.shape != shape:
            raise ValueError(f"{name} must be bool of shape {shape}, it is {mask.dtype} of {tuple(mask.shape)}")
        return mask

    def _values(self, name: str, value: Any, count: int, mask: Tensor) -> Tensor:
        """``value`` as (S, count) float64, checked where ``mask`` is, and harmless elsewhere."""
        value = _tensor(name, value, self.device).double()
        if value.ndim != 0 and value.shape != (self.scenarios, count):
            raise ValueError(f"{name} has shape {tuple(value.shape)}, not {(self.scenarios, count)}")
        value = value.broadcast_to((self.scenarios, count))
        neutral = {"weight": 1.0, "target": 0.5, "speed": 1.0}.get(name, 0.0)
        value = torch.where(mask, value, neutral)
        if bool(value.isnan().any()):
            raise ValueError(f"{name} has NaN")
        if name not in ("rate", "contact") and bool(value.isinf().any()):
            raise ValueError(f"{name} has an infinite value")
        if name == "target" and not bool(((value > 0) & (value < 1)).all()):
            worst = value[(value <= 0) | (value >= 1)][0]
            raise ValueError(f"target={float(worst):g} must lie between 0 and 1, both excluded")
        if name == "weight" and not bool((value > 0).all()):
            raise ValueError("weight must be positive")
        if bool((value < 0).any()):
            raise ValueError(f"{name} must not be negative")
        return value

    @cached_property
    def root(self) -> Tensor:
        """(S, K) a = sqrt(weight * work): what a replica of the task adds to a vehicle's load."""
        return torch.sqrt(self.weight * self.work) * self.tasks

    @cached_property
    def _link(self) -> Tensor:
        """(S, K, N) seconds of communication; infinite where the link is down."""
        volume = (self.upload + self.result)[:, :, None]
        rate = self.rate[:, None, :]
        seconds = torch.where(rate > 0, volume / rate, torch.inf)
        if self.local:
            seconds[:, :, 0] = 0.0
        return seconds

    @cached_property
    def usable(self) -> Tensor:
        """(S, K, N) bool: a replica there would have a chance, however small, to succeed."""
        there = self.tasks[:, :, None] & self.vehicles[:, None, :] & (self.speed > 0)[:, None, :]
        return there & self._link.isfinite() & (self._log_failure > 0)

    @cached_property
    def communication(self) -> Tensor:
        """(S, K, N) seconds to send the task and bring its result back; 0 where that is impossible."""
        return torch.where(self._link.isfinite(), self._link, 0.0)

    @cached_property
    def divisor(self) -> Tensor:
        """(S, N) ``speed``, and 1 where it is 0."""
        return torch.where(self.speed > 0, self.speed, 1.0)

    @cached_property
    def nominal(self) -> Tensor:
        """(S, K, N) latency of a replica that alone joins the vehicle, with optimal shares; may be infinite."""
        root, speed = self.root[:, :, None], self.speed[:, None, :]
        compute = root * (root + self.load[:, None, :]) / (self.weight[:, :, None] * self.divisor[:, None, :])
        return self.inflation * (self._link + torch.where(speed > 0, compute, torch.inf))

    @cached_property
    def success(self) -> Tensor:
        """(S, K, N) probability that a replica succeeds, at most ``CEILING``; 0 for padding."""
        if self._given_success is not None:
            p = self._given_success.clone()
        else:
            finite = self.nominal.clamp(max=1e12)
            contact = self.contact[:, None, :].clamp(max=1e12)
            stays = steady.normal_cdf((contact - finite) / (0.1 * contact + 0.2))
            p = steady.exp(-self.hazard[:, None, :] * finite) * stays
            if self.local:
                p[:, :, 0] = self.local_reliability
        there = self.tasks[:, :, None] & self.vehicles[:, None, :] & self.nominal.isfinite()
        return torch.where(there, p.clamp(0, CEILING), 0.0)

    @cached_property
    def _log_failure(self) -> Tensor:
        # 1 - p in float64 is exact to 1e-10 of itself for p <= CEILING.
        return -steady.log(1 - self.success)

    @cached_property
    def gain(self) -> Tensor:
        """(S, K, N) ell = -ln(1 - p): what a replica adds to the task's reliability, in logarithms."""
        return torch.where(self.usable, self._log_failure, 0.0)

    @cached_property
    def _wanted(self) -> Tensor:
        return -steady.log(1 - self.target) * self.tasks

    @cached_property
    def infeasible(self) -> Tensor:
        """(S, K) bool: all vehicles together do not reach the target; the task is planned by best effort."""
        return self.tasks & (folded_sum(self.gain, 2) < self._wanted * (1 - _TINY))

    @cached_property
    def need(self) -> Tensor:
        """(S, K) req = -ln(1 - target), lowered to what is possible; 0 for padding and hopeless tasks."""
        return torch.minimum(self._wanted, folded_sum(self.gain, 2))

    @cached_property
    def share(self) -> Tensor:
        """(S, K, N) gain / need: a task is covered when its replicas' shares reach 1."""
        need = self.need[:, :, None]
        return torch.where(need > 0, self.gain / torch.where(need > 0, need, 1.0), 0.0)

    @cached_property
    def open(self) -> Tensor:
        """(S, K) bool: the task needs at least one replica, and can have one."""
        return self.tasks & (self.need > 0)

    @cached_property
    def alone(self) -> Tensor:
        """(S, K, N) increase of the objective by a replica that alone joins the vehicle."""
        root = self.root[:, :, None]
        harm = (root * root + 2 * root * self.load[:, None, :]) / self.divisor[:, None, :]
        return harm + self.weight[:, :, None] * self.communication

    def cover(self, assignment: Tensor) -> Tensor:
        """(S, ..., K) sum of the shares of the replicas of ``assignment`` (S, ..., K, N); at least 1 is enough."""
        share = self.share.view(self.scenarios, *[1] * (assignment.ndim - 3), self.count, self.slots)
        return folded_sum(assignment.to(share.dtype) * share, -1)

    def covered(self, assignment: Tensor) -> Tensor:
        """(S, ..., K) bool: the task has what it needs."""
        still = self.open.view(self.scenarios, *[1] * (assignment.ndim - 3), self.count)
        return ~still | (self.cover(assignment) >= 1 - _TINY)

    def reliability(self, assignment: Tensor) -> Tensor:
        """(S, K) probability that at least one replica succeeds, independent replicas."""
        failed = folded_sum(torch.where(assignment, self.gain, 0.0), 2)
        return 1 - steady.exp(-failed)

    def replaced(self, **changes: Any) -> "Epoch":
        """A copy with some inputs changed."""
        kept = {name: getattr(self, name) for name in (*_TASKS, *_VEHICLES, "tasks", "vehicles")}
        options = {name: getattr(self, name) for name in ("local", "local_reliability", "inflation")}
        kept |= {"success": self._given_success, "distance": self.distance}
        return Epoch(**{**kept, **options, **changes})

    def part(self, start: int, end: int) -> "Epoch":
        """The scenarios from ``start`` to ``end``."""
        return self.narrowed(torch.arange(start, end, device=self.device), self.count)

    def narrowed(self, rows: Tensor, tasks: int) -> "Epoch":
        """Some scenarios, by number, with their first ``tasks`` tasks."""
        cut = {name: getattr(self, name)[rows, :tasks] for name in (*_TASKS, "tasks")}
        cut |= {name: getattr(self, name)[rows] for name in (*_VEHICLES, "vehicles")}
        given, far = self._given_success, self.distance
        cut["success"] = None if given is None else given[rows, :tasks]
        cut["distance"] = None if far is None else far[rows]
        return self.replaced(**cut)


def _tensor(name: str, value: Any, device: torch.device) -> Tensor:
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is no tensor, array or number: {str(error).splitlines()[0]}") from error
    if value.is_complex():
        raise ValueError(f"{name} is complex")
    if value.ndim and value.device != device:
        raise ValueError(f"{name} is on {value.device} and work on {device}")
    return value.detach().to(device)


def _size(name: str, value: Any, mask: Any) -> tuple[int, int, torch.device]:
    """Scenarios, columns and device of the input that fixes them."""
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is no tensor, array or number: {str(error).splitlines()[0]}") from error
    if value.ndim == 0 and mask is not None:
        value = torch.as_tensor(mask)
    if value.ndim != 2:
        kind = "(scenarios, tasks)" if name == "work" else "(scenarios, vehicles)"
        raise ValueError(f"{name} must have two dimensions {kind}, it has shape {tuple(value.shape)}")
    return value.shape[0], value.shape[1], value.device
