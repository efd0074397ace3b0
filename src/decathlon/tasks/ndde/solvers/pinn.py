"""The paper's solver: networks trained on the residual, by Adam and then by dense BFGS."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.equations.sampling import latin_hypercube
from decathlon.equations.second_order import BFGS, LevenbergMarquardt
from decathlon.errors import ConfigError
from decathlon.randomness import generator
from decathlon.tasks.ndde import weights as weighting
from decathlon.tasks.ndde.candidates import Form, NetworkCandidate
from decathlon.tasks.ndde.instance import Instance
from decathlon.tasks.ndde.networks import Architecture, output_scales, start_values
from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.residual import Collocation
from decathlon.tasks.ndde.solution import Solution
from decathlon.tasks.ndde.solvers.base import Solver
from decathlon.tasks.ndde.solvers.guards import data_scales, inside
from decathlon.tasks.ndde.solvers.residuals import Losses
from decathlon.tasks.ndde.verdict import Fit, conclude

STAGES = ("bfgs", "lm")
STAGE2 = ("frozen", "uniform", "fixed")
RATES = ("cosine", "exponential", "constant")


class Pinn(Solver):
    """Physics-informed networks for delay equations: Adam, then BFGS, on one fixed set of collocation times.

    Losses: for each equation the mean squared residual, for each unknown the squared error of its start value, for each
    observed unknown the mean squared error at the observed times. Unknown delays and parameters are trained with the
    networks, at the same learning rate.

    Args:
        points: collocation times, a Latin hypercube drawn once (``sampling=uniform``: uniform random ones).
        adam: steps. lr, rate: learning rate, and its course: ``cosine`` down to a hundredth over ``decay`` steps and
            then constant, ``exponential`` (0.9 in 10,000 steps), ``constant``.
        bfgs: iterations of the second stage. second: ``bfgs``, or ``lm`` (Levenberg-Marquardt).
        weights: of the losses under Adam: coupled (the paper's), detached, uniform, fixed (then ``fixed``: by kind).
        stage2: of the losses under BFGS: ``frozen`` at their shares after Adam (the paper's), uniform, fixed.
            floor: the least share.
        constraint: ``soft`` (a loss), or ``hard``: the start value is built in.
        widths, first, kappa, log_kappa: of the networks, see ``Architecture``. recipe: of their start values,
            ``journal`` or ``arxiv``. init: ``shared`` (all networks start alike, as in the paper's code) or
            ``independent``.
        output_scale: factor of the outputs, one number or one for each unknown; ``data``: the largest observed value.
        delays: how unknown ones are trained: ``free`` (a plain scalar, the paper's), or ``inside`` the interval.
        sampling: latin or uniform.
    """

    forward, inverse = True, True
    adam_block, second_block = 100, 50

    def __init__(
        self,
        points: int = 500,
        adam: int = 2000,
        bfgs: int = 1000,
        lr: float = 1e-3,
        rate: str = "cosine",
        decay: int = 1000,
        second: str = "bfgs",
        weights: str = "coupled",
        fixed: Mapping[str, float] | None = None,
        stage2: str = "frozen",
        floor: float = 0.0,
        constraint: str = "soft",
        widths: Sequence[int] = (20, 40, 20),
        first: str = "tanh",
        kappa: float = 1.0,
        log_kappa: bool = False,
        recipe: str = "journal",
        init: str = "shared",
        output_scale: float | Sequence[float] | str | None = None,
        sampling: str = "latin",
        delays: str = "free",
    ) -> None:
        for name, value, choices in (
            ("rate", rate, RATES), ("second", second, STAGES), ("weights", weights, weighting.WEIGHTS),
            ("stage2", stage2, STAGE2), ("constraint", constraint, ("soft", "hard")),
            ("sampling", sampling, ("latin", "uniform")), ("init", init, ("shared", "independent")),
            ("recipe", recipe, ("journal", "arxiv")), ("delays", delays, ("free", "inside")),
        ):  # fmt: skip
            if value not in choices:
                raise ValueError(f"{name}={value} is unknown; choose {', '.join(choices)}")
        if points < 2 or adam < 0 or bfgs < 0 or adam + bfgs < 1 or decay < 1:
            raise ValueError(
                f"points={points}, adam={adam}, bfgs={bfgs}, decay={decay}: at least 2 points, 1 step, 1 decay"
            )
        if not (lr > 0 and math.isfinite(lr)) or not 0 <= floor < 1:
            raise ValueError(f"lr={lr} must be positive and floor={floor} from 0 to 1")
        self.architecture = Architecture(tuple(int(w) for w in widths), first, float(kappa), bool(log_kappa))
        self.points, self.adam, self.bfgs, self.lr, self.rate, self.decay = (
            int(points),
            int(adam),
            int(bfgs),
            lr,
            rate,
            int(decay),
        )
        self.second, self.weights, self.fixed, self.stage2, self.floor = second, weights, fixed, stage2, float(floor)
        self.hard, self.recipe, self.init, self.sampling = constraint == "hard", recipe, init, sampling
        self.output_scale, self.delays = output_scale, delays
        weighting.fixed_weights(fixed, [])

    def accept(self, problem: DDE) -> None:
        super().accept(problem)
        self._scales(problem, None)
        if self.second == "lm" and problem.history_depends:
            raise ConfigError("second=lm cannot train a history that depends on unknowns; choose second=bfgs")

    def begin(self, problem: DDE, observations: Observations | None = None, seed: int = 0) -> None:
        if self.delays == "inside":
            problem = inside(problem)
        super().begin(problem, observations, seed)
        scales = self._scales(problem, observations)
        self.form = Form(self.architecture, scales, self.hard, problem.span[0])
        self.size = problem.size * self.architecture.count
        nets = start_values(self.architecture, problem.size, self.recipe, self.init, self.seed)
        raw = torch.tensor([slot.unknown.raw() for slot in problem.slots], dtype=torch.float64)
        self.flat = torch.nn.Parameter(torch.cat([nets, raw]))
        self.optimiser = torch.optim.Adam([self.flat], lr=self.lr, betas=(0.9, 0.999), eps=1e-8, fused=True)
        self.times = self._collocation()
        self.collocation = Collocation(self.times)
        start = [] if self.hard else [torch.full((1,), problem.span[0], dtype=torch.float64)]
        seen = [] if observations is None else [observations.times]
        self.more = torch.cat([*start, *seen, torch.zeros(0, dtype=torch.float64)])
        self.adam_done = self.second_done = 0
        self.held = torch.zeros(0, dtype=torch.float64)
        self.losses = torch.zeros(0, dtype=torch.float64)
        self.minimiser: BFGS | LevenbergMarquardt | None = None
        self.history: list[list[float]] = []
        self.kinds = self._kinds()

    def _scales(self, problem: DDE, observations: Observations | None) -> Tensor:
        if self.output_scale == "data":
            return data_scales(observations, problem.size)
        return output_scales(self.output_scale, problem.size)

    def _collocation(self) -> Tensor:
        random = generator("collocation", self.seed)
        start, end = self.problem.span
        if self.sampling == "latin":
            return latin_hypercube([(start, end)], self.points, random)[:, 0].contiguous()
        return start + (end - start) * torch.rand(self.points, generator=random, dtype=torch.float64)

    def _kinds(self) -> list[str]:
        n = self.problem.size
        observed = 0 if self.observations is None else int(self.observations.seen.any(dim=1).sum())
        return ["equation"] * n + ([] if self.hard else ["initial"] * n) + ["data"] * observed

    # The losses

    def values(self, raw: Tensor) -> Tensor:
        """Values of the unknowns (m,) from the trained scalars."""
        slots = self.problem.slots
        return torch.stack([slot.unknown.value(r) for slot, r in zip(slots, raw)]) if slots else raw

    def terms(self, flat: Tensor) -> Tensor:
        """The losses (q,): residuals, start values, observations."""
        instance = self.problem.at(self.values(flat[self.size :]))
        candidate = NetworkCandidate(self.form, flat[: self.size], instance, self.more)
        residual, _ = self.collocation.residual(instance, candidate)
        terms = [residual.square().mean(dim=1)]
        found = candidate.more_values
        if not self.hard:
            terms.append((found[:, 0] - instance.initial).square())
        if self.observations is not None:
            seen = self.observations.seen
            gaps = found[:, 0 if self.hard else 1 :] - self.observations.values.nan_to_num()
            counts = seen.sum(dim=1)
            terms.append(((gaps.square() * seen).sum(dim=1) / counts.clamp(min=1))[counts > 0])
        return torch.cat(terms)

    def _stage2_weights(self) -> Tensor:
        if self.stage2 == "frozen":
            return weighting.frozen(self.losses, self.floor)
        if self.stage2 == "uniform":
            return torch.full((len(self.kinds),), 1 / len(self.kinds), dtype=torch.float64)
        return weighting.fixed_weights(self.fixed, self.kinds)

    # The stages

    @property
    def blocks(self) -> int:
        return -(-self.adam // self.adam_block) + -(-self.bfgs // self.second_block)

    def advance(self) -> dict[str, float]:
        if self.adam_done < self.adam:
            for _ in range(min(self.adam_block, self.adam - self.adam_done)):
                self._adam_step()
        else:
            self._second_block()
        found = {f"loss_{kind}": 0.0 for kind in dict.fromkeys(self.kinds)}
        for kind, loss in zip(self.kinds, self.losses.tolist()):
            found[f"loss_{kind}"] += loss
        with torch.no_grad():
            values = self.values(self.flat[self.size :].detach()).tolist()
        found |= {slot.name: value for slot, value in zip(self.problem.slots, values)}
        self.history.append([float(self.adam_done), float(self.second_done), float(self.losses.sum()), *values])
        return found

    def learning_rate(self, step: int) -> float:
        """At a step of Adam, from 0 on."""
        if self.rate == "constant":
            return self.lr
        if self.rate == "exponential":
            return self.lr * 0.9 ** (step / 10_000)
        share = min(step / self.decay, 1.0)
        return self.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)

    def _adam_step(self) -> None:
        self.optimiser.param_groups[0]["lr"] = self.learning_rate(self.adam_done)
        terms = self.terms(self.flat)
        fixed = weighting.fixed_weights(self.fixed, self.kinds) if self.weights == "fixed" else None
        _, factors = weighting.objective(terms, self.weights, fixed)
        (self.flat.grad,) = torch.autograd.grad(terms, self.flat, grad_outputs=factors)
        self.losses = terms.detach()
        self.optimiser.step()
        self.adam_done += 1

    def _second_block(self) -> None:
        if self.minimiser is None:
            if len(self.losses) == 0:
                self.losses = self.terms(self.flat).detach()
            self.held = self._stage2_weights()
            x = self.flat.detach().numpy().copy()
            self.minimiser = BFGS(x) if self.second == "bfgs" else LevenbergMarquardt(x)
        for _ in range(min(self.second_block, self.bfgs - self.second_done)):
            self.second_done += 1
            if isinstance(self.minimiser, BFGS):
                going = self.minimiser.step(self._function)
            else:
                going = self.minimiser.step(self._residuals, self._jacobian)
            if not going:
                self.second_done = self.bfgs
                break
        with torch.no_grad():
            self.flat.copy_(torch.from_numpy(self.minimiser.x))
            self.losses = self.terms(self.flat).detach()

    def _function(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        flat = torch.from_numpy(np.array(x)).requires_grad_()
        terms = self.terms(flat)
        (gradient,) = torch.autograd.grad(terms, flat, grad_outputs=self.held)
        return float(self.held @ terms.detach()), gradient.numpy()

    def _residuals(self, x: np.ndarray) -> np.ndarray:
        return self._rows(x, False)[0]

    def _jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._rows(x, True)

    def _rows(self, x: np.ndarray, jacobian: bool) -> tuple[np.ndarray, np.ndarray]:
        flat, form, values = torch.from_numpy(np.array(x)), self.form, self.values
        losses = Losses(self.problem, form, self.size, values, self.times, self.observations)
        return losses.rows(flat, self.held.sqrt().tolist(), jacobian)

    # The result

    def instance(self) -> Instance:
        """The problem at the present values of its unknowns."""
        with torch.no_grad():
            return self.problem.at(self.values(self.flat[self.size :].detach()))

    def solution(self) -> Solution:
        instance = self.instance()
        candidate = NetworkCandidate(self.form, self.flat.detach()[: self.size], instance)
        return Solution(self.problem, candidate.values, instance.past)

    def fit(self) -> Fit:
        assert self.observations is not None
        with torch.no_grad():
            values = self.values(self.flat[self.size :].detach())
        reason = "" if bool(torch.isfinite(self.losses).all()) else "the training has diverged"
        return conclude(self.problem, self.observations, values, self.solution(), reason)

    def parameters(self) -> list[Tensor]:
        return [self.flat]

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "flat": self.flat.detach().clone(),
            "adam": self.optimiser.state_dict(),
            "done": [self.adam_done, self.second_done],
            "times": self.times,
            "losses": self.losses,
            "held": self.held,
            "history": [list(row) for row in self.history],
        }
        if self.minimiser is not None:
            state["minimiser"] = self.minimiser.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.flat.copy_(state["flat"])
        self.optimiser.load_state_dict(state["adam"])
        self.adam_done, self.second_done = state["done"]
        self.times, self.losses, self.held = state["times"], state["losses"], state["held"]
        self.collocation = Collocation(self.times)
        self.history = [list(row) for row in state["history"]]
        if "minimiser" in state:
            x = self.flat.detach().numpy().copy()
            self.minimiser = BFGS(x) if self.second == "bfgs" else LevenbergMarquardt(x)
            self.minimiser.load_state_dict(state["minimiser"])
