"""The LightningModule: a planner in the simulated world, scenario by scenario, or against the optimum."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from decathlon.build import build, check_options
from decathlon.errors import ConfigError
from decathlon.rows import append, mend, read_rows, rows_path
from decathlon.tasks.cave.metrics import Row, instance_metrics, scenario_rows, simulation_metrics
from decathlon.tasks.cave.planners import Planner
from decathlon.tasks.cave.simulator.loop import Simulator
from decathlon.tasks.cave.simulator.outcome import Recording
from decathlon.tasks.cave.simulator.settings import Settings
from decathlon.tasks.cave.sources import Source

log = logging.getLogger(__name__)


class CaveModule(L.LightningModule):
    """Evaluates one method. Nothing is trained; a batch is a set of scenarios, simulated together.

    Each scenario's row is appended to ``cases-<process>.jsonl`` in the job's folder. Scenarios that the folder has a
    row of are left out, so an interrupted evaluation goes on; the metrics are computed from all rows at the end. A
    scenario's row does not depend on which others are simulated with it (but for ``seconds``).

    Args:
        root, dataset, size: see ``sources.Source``.
        method: a planner, for ``decathlon.build.build``.
        seed: of the world and of the planner.
        settings, more: see ``Settings``; ``more`` wins. density: of a generated road, instead of the dataset's.
        allocation: how vehicles share their compute; None: as the method has it.
        figures: draw one scenario's replicas and a series of pictures of it. animation: also ``scene.gif``.
    """

    def __init__(
        self,
        root: str,
        dataset: Mapping[str, Any],
        method: Mapping[str, Any],
        settings: Mapping[str, Any],
        size: Mapping[str, Any],
        seed: int = 0,
        density: float | None = None,
        more: Mapping[str, Any] | None = None,
        allocation: str | None = None,
        figures: bool = True,
        animation: bool = False,
    ) -> None:
        super().__init__()
        for name, least in (("tasks", 1), ("vehicles", 1), ("count", 1)):
            if size[name] < least:
                raise ConfigError(f"instances: {name}={size[name]} must be at least {least}")
        self.settings = settings_of({**settings, **(more or {})})
        self.source = Source(root, dataset, seed, size, density)
        spec = dict(method) if allocation is None else {**method, "allocation": allocation}
        self.planner: Planner = build(spec, called="method")
        self.name = str(method["name"])
        self.needs_local = bool(spec["class"].endswith(".Local"))
        if self.source.kind == "instances" and self.needs_local:
            raise ConfigError(f"method={self.name} needs an ego vehicle; dataset={self.source.name} has none")
        if self.needs_local and not self.settings.local:
            raise ConfigError(f"method={self.name} needs local=true, the ego vehicle as a candidate")
        if self.source.kind == "ring":
            self._simulator()  # an allocation that does not go with the sharing shows at once
        self.seed, self.figures, self.animation = seed, figures, animation
        self.done: set[str] = set()

    def _simulator(self) -> Simulator:
        try:
            return Simulator(self.settings, self.source.traffic(), self.planner, self.source.seed)
        except ValueError as error:
            raise ConfigError(f"method={self.name}: {error}") from error

    def on_test_start(self) -> None:
        """Load the data, and find out what an earlier attempt has done."""
        mend(rows_path(self.folder, self.global_rank))
        self.done = {row["id"] for row in read_rows(self.folder)}
        if self.done:
            log.info("going on after %d finished scenarios", len(self.done))
        if self.source.kind == "instances":
            self.epoch, self.known = self.source.instances()
        else:
            self.simulator = self._simulator()

    @property
    def folder(self) -> Path:
        """The folder of the job."""
        return Path(self.trainer.default_root_dir)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Simulate (or plan) those numbers of the batch that have no row yet."""
        left = torch.tensor([number for number in batch.tolist() if str(number) not in self.done], dtype=torch.int64)
        if not len(left):
            return
        if self.source.kind == "instances":
            rows = self._decide(left)
        else:
            place = left.tolist().index(0) if self.figures and 0 in left else None
            outcome, recording = self.simulator.run(left.to(self.device), place, _Progress(left.tolist()))
            rows = scenario_rows(left.tolist(), outcome, self.settings)
            if recording is not None:
                self._draw(recording)
        append(rows_path(self.folder, self.global_rank), rows)
        self.done |= {row["id"] for row in rows}

    def _decide(self, numbers: Tensor) -> list[Row]:
        epoch = self.epoch.narrowed(numbers, self.epoch.count)
        start = time.perf_counter()
        plan = self.planner.assign(epoch, numbers)
        seconds = (time.perf_counter() - start) / len(numbers)
        short = (epoch.target - plan.reliability).clamp(min=0).mean(1)
        return [
            {
                "id": str(number), "objective": float(plan.objective[place]),
                "optimum": float(self.known["optimum"][number]), "proven": bool(self.known["proven"][number]),
                "bound": float(self.known["bound"][number]),
                "redundancy": float(plan.assignment[place].sum()) / epoch.count, "violation": float(short[place]),
                "infeasible": float(plan.infeasible[place].double().mean()), "seconds": seconds,
            }
            for place, number in enumerate(numbers.tolist())
        ]  # fmt: skip

    def _draw(self, recording: Recording) -> None:
        from decathlon.tasks.cave.figures import draw_scene, draw_timeline

        draw_timeline(self.folder / "timeline.png", recording, self.settings)
        draw_scene(self.folder / "scene.png", recording, self.settings)
        if self.animation:
            from decathlon.tasks.cave.figures import animate_scene

            animate_scene(self.folder / "scene.gif", recording, self.settings)

    def export(self, folder: Path) -> None:
        """Nothing is trained: ``decathlon.tasks.cave.trained`` makes the planner of the config alone."""

    def on_test_epoch_end(self) -> None:
        """Log the metrics of all rows, those of other processes and earlier attempts among them."""
        self.trainer.strategy.barrier()
        rows = read_rows(self.folder)
        if self.source.kind == "instances":
            metrics = instance_metrics(rows)
        else:
            metrics = simulation_metrics(rows, self.settings.target, self.settings.deadline)
            if not metrics["tasks"]:
                log.warning("no task arrived in the counted span: latency and reliability are not defined")
        for name, value in metrics.items():
            self.log(f"test/{name}", float(value), rank_zero_only=False, sync_dist=False)


class _Progress:
    """Says every few seconds how far a batch is: it may be the only one, for which Lightning's bar has one step."""

    EVERY = 5.0

    def __init__(self, scenarios: list[int]) -> None:
        self.scenarios, self.said = scenarios, time.monotonic()

    def __call__(self, share: float) -> None:
        if time.monotonic() - self.said >= self.EVERY and share < 1:
            self.said = time.monotonic()
            log.info("scenarios %d to %d: %.0f %% simulated", self.scenarios[0], self.scenarios[-1], 100 * share)


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Settings from a config; a wrong value is one line."""
    check_options(Settings, given, "the simulation")
    try:
        return Settings(**given)
    except ValueError as error:
        raise ConfigError(str(error)) from error
