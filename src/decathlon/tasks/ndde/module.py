"""A job of the task: a solver advances block by block, and its result is compared with the truth."""

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from decathlon import files, trained
from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.tasks.ndde.data import DelayData, make_inverse, make_problem
from decathlon.tasks.ndde.solution import relative_error
from decathlon.tasks.ndde.solvers.base import Solver
from decathlon.tasks.ndde.trained import curve
from decathlon.tasks.ndde.verdict import Fit

log = logging.getLogger(__name__)


class DelaySolver(LightningModule):
    """Runs a solver on the problem of a ``DelayData``.

    Test metrics. Of the curve on 1,001 equidistant times: ``test/rel_l2`` (mean over the unknowns of ``||u - y|| /
    ||y||``), ``test/mae``, ``test/max_error``, and for systems the first two of each unknown (``test/rel_l2_y1``).
    Inverse problems besides: each estimate (``test/tau``), its standard error (``test/se_tau``), its relative error
    (``test/error_tau``), the largest of these (``test/error``), ``test/rms`` of the residuals, and ``test/failed``: 1
    where the verdict is not ok; then all errors are not numbers. ``test/seconds``: of the solver alone.
    ``test/log10_...`` for geometric means.
    The job's folder gets ``solution.png``, and ``fit.json`` is the runner's; the verdict is in ``verdict.json``.

    Args:
        method, dataset: configs.
        blocks_per_step, steps_per_epoch: how often the work can be interrupted and goes on to the same bits.
        figures: whether to draw.
        seed: of all that the solver draws.
    """

    def __init__(
        self, method: dict[str, Any], dataset: dict[str, Any], seed: int = 0, blocks_per_step: int = 1,
        steps_per_epoch: int = 10, figures: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.automatic_optimization = False
        if min(blocks_per_step, steps_per_epoch) < 1:
            raise ConfigError("blocks_per_step and steps_per_epoch must be at least 1")
        self.seed, self.figures = int(seed), bool(figures)
        self.blocks_per_step, self.steps_per_epoch = int(blocks_per_step), int(steps_per_epoch)
        self.solver = self._solver(method)
        # A combination that cannot be ends here, before anything is written.
        self.solver.accept(make_inverse(make_problem(dataset), dataset))
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # Lightning counts optimizer steps
        self.done, self.seconds, self.fault = 0, 0.0, ""
        self._fit: Fit | None = None
        self._verdict = ""

    @staticmethod
    def _solver(method: Mapping[str, Any]) -> Solver:
        solver = build(method, called="method")
        if not isinstance(solver, Solver):
            raise ConfigError(
                f"method={method.get('name')}: {method['class']} is no decathlon.tasks.ndde.solvers.Solver"
            )
        return solver

    @property
    def data(self) -> DelayData:
        """The job's data."""
        found = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(found, DelayData)
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.anchor], lr=0.0)

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            raise ConfigError(
                "task=ndde runs in one process; sweep over jobs in parallel instead (hydra/launcher=joblib)"
            )
        self.done, self.seconds = 0, 0.0
        self.data.blocks = self.steps_per_epoch
        try:
            self.solver.begin(self.data.problem, self.data.observed, self.seed)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def training_step(self, batch: Any, batch_idx: int) -> None:
        start = time.perf_counter()
        found: dict[str, float] = {}
        for _ in range(self.blocks_per_step):
            if self.done < self.solver.blocks and not self.fault:
                try:
                    found = self.solver.advance()
                except ValueError as error:  # this problem is beyond this solver: a result, and said loudly
                    self.fault = str(error)
                    log.warning("%s has failed: %s", type(self.solver).__name__, error)
                self.done += 1
        self.seconds += time.perf_counter() - start
        self.log_dict({f"train/{name}": float(value) for name, value in found.items()}, prog_bar=True, batch_size=1)
        self.optimizers().step()  # type: ignore[union-attr]
        if self.done >= self.solver.blocks or self.fault:
            self.trainer.should_stop = True

    def test_step(self, batch: Any, batch_idx: int) -> None:
        fit: Fit | None = None
        if self.fault:
            metrics, verdict = {"failed": 1.0}, f"failed: {self.fault}"
        elif self.data.inverse:
            fit = self.solver.fit()
            metrics, verdict = self._inverse(fit), fit.verdict
        else:
            metrics, verdict = self._curve(self.solver.solution().rows(self.data.times)), "ok"
            metrics["failed"] = float(not math.isfinite(metrics["rel_l2"]))
        metrics["seconds"] = self.seconds
        self._fit, self._verdict = fit, verdict
        self.log_dict({f"test/{name}": value for name, value in metrics.items()}, batch_size=1)
        if not self.trainer.is_global_zero:
            return
        if verdict != "ok":
            log.warning("verdict: %s", verdict)
        elif fit is not None:
            log.info("verdict: ok; %s", self._sentence(fit))
        files.write_text(self.folder / "verdict.json", json.dumps({"verdict": verdict}) + "\n")
        if self.figures and not self.fault:
            from decathlon.tasks.ndde.figures import save_figures  # matplotlib is slow to import

            save_figures(self.data, self.solver, fit, self.folder)

    @staticmethod
    def _sentence(fit: Fit) -> str:
        parts = []
        for name, value in fit.estimates.items():
            error = fit.standard_errors[name]
            parts.append(f"{name} = {value:.6g}" + (f" ± {error:.1g}" if math.isfinite(error) else ""))
        return ", ".join(parts)

    def _curve(self, values: torch.Tensor) -> dict[str, float]:
        reference = self.data.reference
        assert reference is not None
        values = values.detach()
        relative, absolute = relative_error(values, reference), (values - reference).abs().mean(dim=1)
        found = {"rel_l2": float(relative.mean()), "mae": float(absolute.mean())}
        found["max_error"] = float((values - reference).abs().max())
        found["log10_rel_l2"] = math.log10(found["rel_l2"]) if found["rel_l2"] > 0 else math.nan
        if len(values) > 1:
            for name, r, a in zip(self.data.problem.names, relative.tolist(), absolute.tolist()):
                found |= {f"rel_l2_{name}": r, f"mae_{name}": a}
        return found

    def _inverse(self, fit: Fit) -> dict[str, float]:
        found = {"failed": 0.0 if fit.ok else 1.0}
        rms = fit.residuals[~torch.isnan(fit.residuals)].square().mean().sqrt()
        found["rms"] = float(rms)
        truth = self._true_values()
        worst = 0.0
        for name, value in fit.estimates.items():
            found[name], found[f"se_{name}"] = value, fit.standard_errors[name]
            if name in truth:
                error = abs(value - truth[name]) / abs(truth[name]) if fit.ok and truth[name] else math.nan
                found[f"error_{name}"] = error
                worst = max(worst, error) if math.isfinite(error) else math.nan
        if truth:
            found["error"] = worst
            found["log10_error"] = math.log10(worst) if worst > 0 else math.nan
        if self.data.reference is not None:
            curve = self._curve(fit.solution.rows(self.data.times))
            found |= curve if fit.ok else dict.fromkeys(curve, math.nan)
        return found

    def _true_values(self) -> dict[str, float]:
        if self.data.own_data:
            return {}
        truth, names = self.data.truth, [slot.name for slot in self.data.problem.slots]
        given = dict(zip(truth.delay_names, truth.delays)) | truth.parameters
        return {name: float(given[name]) for name in names if name in given}

    @property
    def folder(self) -> Path:
        """The job's folder."""
        return Path(self.trainer.default_root_dir)

    def export(self, folder: Path) -> None:
        """Keep estimates and curve; see ``decathlon.tasks.ndde.trained``."""
        solution = None
        if not self.fault:
            solution = self.solver.solution() if self._fit is None else self._fit.solution
        state = {
            "verdict": self._verdict, "names": list(self.data.problem.names),
            "estimates": {} if self._fit is None else dict(self._fit.estimates),
            "standard_errors": {} if self._fit is None else dict(self._fit.standard_errors),
            **curve(solution, self.data.problem.span),
        }  # fmt: skip
        trained.save(folder, state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ndde"] = {
            "solver": self.solver.state_dict(), "done": self.done, "seconds": self.seconds, "fault": self.fault,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["ndde"]
        self.done, self.seconds, self.fault = int(state["done"]), float(state["seconds"]), str(state["fault"])
        self.solver.load_state_dict(state["solver"])
