"""Sweeps: each job leaves its outcome in the sweep's folder, the parent sums them up at the end.

The state of a sweep is in the folders of its jobs, not here: the same command again skips what is finished, whatever
launcher ran it.
"""

import json
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from decathlon import files

# Set in the process that started the sweep; read by `run` for its exit status.
failed_jobs: list[str] = []


def in_sweep() -> bool:
    """Whether the current Hydra job is one of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def leave_outcome(outcome: dict[str, Any]) -> None:
    """Note how a job of the current sweep ended, for the parent's summary."""
    hydra = HydraConfig.get()
    path = Path(hydra.sweep.dir, "outcomes", f"{hydra.job.num}.json")
    files.write_text(path, json.dumps({"job": " ".join(hydra.overrides.task), **outcome}))


class SweepReport(Callback):
    """Prints the summary of a sweep in the process that started it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.folder = Path(str(config.hydra.sweep.dir))
        failed_jobs.clear()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from decathlon.runner.console import say_sweep

        paths = sorted((self.folder / "outcomes").glob("*.json"), key=lambda path: int(path.stem))
        outcomes = [json.loads(path.read_text()) for path in paths]
        say_sweep(outcomes)
        failed_jobs.extend(outcome["job"] for outcome in outcomes if outcome["status"] == "failed")
        if os.environ.get("DECATHLON_KEEP_SWEEPS") is None:
            for path in paths:
                path.unlink()
