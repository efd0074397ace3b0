"""Training a network on a differential equation with a conflict-free method."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from decathlon import trained
from decathlon.build import check_options
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.data import make_problem
from decathlon.tasks.pinn.errors import NotFiniteError
from decathlon.tasks.pinn.method_config import is_momentum
from decathlon.tasks.pinn.mixin import ConflictFreeMixin
from decathlon.tasks.pinn.problems.base import Problem
from decathlon.tasks.pinn.schedule import make_schedule
from decathlon.tasks.pinn.selection import Selection

log = logging.getLogger(__name__)


class PINN(ConflictFreeMixin, LightningModule):
    """A physics-informed network: losses are the equation's residual and the conditions.

    Every step draws its points from a generator seeded by (seed, step). The test error is measured ``evaluations``
    times in the course of training, and logged as ``val/mse``; losses and cosines are logged as means over the steps
    in between (``train/<loss>``, ``train/cos_raw/<loss>``, ``train/cos_step/<loss>``).

    Test metrics: ``test/mse`` (mean squared error to the exact solution over points and fields, of the last weights),
    ``test/mse_best`` (the best seen in training: selects on the test set, as the paper does), ``test/mse_selected``
    (where the sum of the training losses was lowest), ``test/log10_mse``, ``test/mse_<field>``, the same against the
    paper's reference file where it is found (``test/mse_official``, ``test/mse_official_best``), unknown coefficients,
    ``test/steps``, ``test/seconds_per_step`` and ``test/diverged`` (1: a loss or a gradient was not finite and the run
    stopped, or its last error was not; all its errors are not numbers).

    Args:
        method: method config.
        dataset: dataset config: ``problem``, and optional ``network`` (``width``, ``hidden``), ``schedule`` (cosine or
            constant), ``evaluations``, ``steps_scale`` (factor on the steps), ``momentum_steps`` (a further one for
            M-ConFIG, whose steps cost less), ``block`` (steps per training_step: saves overhead), ``cosines_every``,
            ``figures``, ``coefficient_lr`` (highest learning rate of the equation's unknown coefficients; ``lr`` by
            default).
        lr, lr_end: highest and last learning rate.
        steps: of optimisation.
        seed: of the points.
        figures: whether to draw ``solution.png`` and ``training.png`` into the job's folder, if the dataset does not
            say no.
    """

    def __init__(
        self,
        method: dict[str, Any],
        dataset: dict[str, Any],
        lr: float,
        lr_end: float,
        steps: int,
        seed: int = 0,
        figures: bool = True,
    ) -> None:
        super().__init__()
        self.problem = make_problem(dataset)
        self.network = make_network(self.problem, dataset)
        self.seed, self.figures = int(seed), bool(figures and dataset.get("figures", True))
        self.evaluations, self.block = int(dataset.get("evaluations", 1)), int(dataset.get("block", 1))
        if min(int(steps), self.evaluations, self.block) < 1:
            raise ConfigError(
                f"steps={steps}, evaluations={self.evaluations} and block={self.block} must be at least 1"
            )
        factor = float(dataset.get("steps_scale", 1.0))
        if is_momentum(method):
            factor *= float(dataset.get("momentum_steps", 1.0))
        self.steps = max(1, round(int(steps) * factor))
        schedule = make_schedule(dataset, lr, lr_end, self.steps)
        log_every = int(dataset.get("cosines_every", 100))
        self.setup_conflict(
            method,
            self.problem.loss_names,
            lr,
            schedule,
            log_every=log_every,
            coefficients=self.problem.parameters(),
            coefficient_lr=dataset.get("coefficient_lr"),
        )
        self.steps_per_epoch = -(-self.steps // self.evaluations)
        self.selection = Selection()
        self.history: dict[str, list[float]] = {}
        self.diverged = -1  # the step at which a gradient was not finite
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Fields (n, fields) at points (n, coordinates)."""
        return self.network(x)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            data.batches = -(-self.steps_per_epoch // self.block)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        start = self.conflict_steps
        until = min(start + self.block, (start // self.steps_per_epoch + 1) * self.steps_per_epoch, self.steps)
        for step in range(start, until if self.diverged < 0 else start):
            losses = self.problem.losses(self.network, self.seed, step, self.global_rank, self.trainer.world_size)
            found = self._step_unless_diverged(losses, step)
            for name, value in found.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value.double()
                self._counts[name] = self._counts.get(name, 0) + 1

    def _step_unless_diverged(self, losses: dict[str, Callable[[], Tensor]], step: int) -> dict[str, Tensor]:
        """A step; if a gradient is not finite the run has diverged, which is a result: it stops, and says so."""
        try:
            return self.conflict_step(losses)
        except NotFiniteError as error:
            self.diverged = step
            self.trainer.should_stop = True
            log.warning("step %d: %s; this run has diverged and stops", step, error)
            return {}

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        if self.trainer.sanity_checking:
            return
        errors, means = self._errors(batch, self.predict(batch["x"])), self._means()
        training = sum(means[name] for name in self.loss_names) if means.keys() >= set(self.loss_names) else math.nan
        self.selection.add(self.conflict_steps, errors["mse"], training, **errors)
        self.log_dict({f"val/{name}": value for name, value in errors.items()}, prog_bar=True, batch_size=1)
        self.log_dict({f"train/{name}": value for name, value in means.items()}, batch_size=1)
        for name, value in {"step": float(self.conflict_steps), **errors, **means}.items():
            self.history.setdefault(name, []).append(value)
        self._sums, self._counts = {}, {}

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        prediction = self.predict(batch["x"])
        final = self._errors(batch, prediction)
        best, selected = self.selection.reading("best"), self.selection.reading("selected")
        found = dict(final)
        for name in ("mse", "mse_official"):
            if name in final:
                found |= {f"{name}_{kind}": r[name] for kind, r in (("best", best), ("selected", selected)) if r}
        if self.history.get("mse_official"):
            found["mse_official_best"] = min(self.history["mse_official"])
        for name in self.loss_names:
            if self.history.get(name):
                found[f"loss_{name}"] = self.history[name][-1]
        if self.diverged >= 0 or not math.isfinite(final["mse"]):
            found = {name: math.nan for name in found}  # not a result of the whole protocol
        mse = found["mse"]
        found["log10_mse"] = math.log10(mse) if mse > 0 else math.nan
        found["diverged"] = float(self.diverged >= 0 or not math.isfinite(mse))
        found |= {"steps": float(self.conflict_steps), "seconds_per_step": self.seconds_per_step}
        self.log_dict({f"test/{name}": value for name, value in found.items()}, batch_size=1)
        if self.figures and self.trainer.is_global_zero:
            from decathlon.tasks.pinn.figures import save_figures  # matplotlib is slow to import

            save_figures(self.problem, prediction.cpu(), batch["fields"].cpu(), self.history, self.folder)

    @property
    def folder(self) -> Path:
        """The job's folder."""
        return Path(self.trainer.default_root_dir)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Fields (n, fields) at points of any precision."""
        return self.network(x.to(next(self.network.parameters())))

    def _errors(self, batch: Mapping[str, Tensor], prediction: Tensor) -> dict[str, float]:
        found = self.problem.errors(prediction, batch["fields"])
        if "official_x" in batch:
            official = self.problem.errors(self.predict(batch["official_x"]), batch["official_fields"])
            found["mse_official"] = official["mse"]
        return found | self.problem.unknowns()

    def _means(self) -> dict[str, float]:
        """Mean of what ``conflict_step`` returned since the last evaluation."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def export(self, folder: Path) -> None:
        """Keep the network and the equation's coefficients; see ``decathlon.tasks.pinn.trained``."""
        state = {"network": dict(self.network.state_dict()), "problem": dict(self.problem.state_dict())}
        trained.save(folder, state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["pinn"] = {
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "history": {name: list(values) for name, values in self.history.items()},
            "selection": self.selection.state_dict(),
            "diverged": self.diverged,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["pinn"]
        self._sums = {name: total.to(self.device) for name, total in state["sums"].items()}
        self._counts, self.history = dict(state["counts"]), {k: list(v) for k, v in state["history"].items()}
        self.selection.load_state_dict(state["selection"])
        self.diverged = state["diverged"]


def make_network(problem: Problem, dataset: Mapping[str, Any]) -> torch.nn.Module:
    """The problem's network with the options of ``dataset["network"]``.

    Raises:
        ConfigError: in one line, an option that it does not have, or a value that it refuses.
    """
    options, label = dict(dataset.get("network") or {}), f"dataset={dataset.get('name')}: network"
    check_options(problem.network, options, label)
    try:
        network = problem.ansatz(**options)
        if problem.engine == "taylor":  # here, and not at the first step
            problem.evaluator(network)(torch.zeros(1, len(problem.coordinates)), problem.derivatives)
    except ValueError as error:
        raise ConfigError(f"{label}: {error}") from error
    return network
