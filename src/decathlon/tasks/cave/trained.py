"""The planner of a job of task=cave. Nothing is trained: its options are all there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from decathlon.build import build
from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.plan import Plan
from decathlon.tasks.cave.planners import Planner
from decathlon.tasks.cave.simulator.settings import Settings


@dataclass
class Planned:
    """A planner with the settings of the simulated world in which the job has judged it.

    Attributes:
        planner: see ``decathlon.tasks.cave.planners``. settings: for ``simulator.loop.Simulator``.
    """

    planner: Planner
    settings: Settings

    def plan(self, epoch: Epoch, scenarios: Tensor | None = None, step: int = 0) -> Plan:
        """Which vehicles compute which task of an epoch."""
        return self.planner.assign(epoch, scenarios, step)


def load(folder: Path, config: Mapping[str, Any]) -> Planned:
    """The planner that the job's config names, with the job's allocation."""
    module = config["module"]
    method = dict(module["method"])
    if module.get("allocation") is not None:
        method["allocation"] = module["allocation"]
    planner = build(method, called="method")
    return Planned(planner, Settings(**{**module["settings"], **(module.get("more") or {})}))
