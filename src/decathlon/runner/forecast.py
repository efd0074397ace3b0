"""How far a sweep is and what is left of it: the jobs, their states, and time and disk from jobs like them."""

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First: it loads Hydra's plugins in the order that makes its sweeper importable.
from decathlon.runner import records
from decathlon.runner.compose import Composer
from decathlon.runner.job import Job
from decathlon.runner.keys import NOT_IDENTITY
from decathlon.runner.layout import Layout
from decathlon.runner.planning import Planner, parse
from decathlon.runner.records import Found, size_of
from decathlon.runner.tuning import Need, needs

_SAMPLES = 3


@dataclass
class Step:
    """A job of a sweep.

    Attributes:
        state: as :class:`decathlon.runner.records.Found` has it, or ``missing``.
        seconds: how long it took or, if it is not finished, may take; None where nothing like it has ever finished.
        like: what the estimate's jobs share with it.
        gpu: devices that it takes, or may take; 0 on a CPU.
    """

    job: Job
    found: Found | None
    state: str
    seconds: float | None = None
    like: str = ""
    gpu: int = 0
    disk: int = 0

    @property
    def is_done(self) -> bool:
        return self.state in ("finished", "diverged")

    @property
    def left(self) -> float | None:
        """Seconds until it is finished, by the estimate."""
        if self.is_done:
            return 0.0
        if self.seconds is None or self.state != "running" or self.found is None:
            return self.seconds
        return max(0.0, self.seconds - (time.time() - self.found.changed))


@dataclass
class Forecast:
    """A sweep: its jobs, each once, in order."""

    steps: list[Step]
    results_dir: Path

    def count(self, *states: str) -> int:
        return sum(step.state in states for step in self.steps)

    @property
    def todo(self) -> list[Step]:
        return [step for step in self.steps if not step.is_done]

    @property
    def seconds_left(self) -> float:
        """Of the jobs with an estimate, one after another."""
        return sum(step.left or 0.0 for step in self.todo)

    @property
    def unknown(self) -> int:
        """How many jobs are left of which nothing like them has ever finished."""
        return sum(step.left is None for step in self.todo)

    @property
    def longest(self) -> float:
        """Seconds that the longest of the jobs left may take, of those with an estimate."""
        return max((step.left or 0.0 for step in self.todo), default=0.0)

    @property
    def gpu_hours(self) -> float:
        return sum((step.left or 0.0) * step.gpu for step in self.todo) / 3600

    @property
    def disk(self) -> int:
        """Bytes that the jobs left may take."""
        return sum(step.disk for step in self.todo)

    def free_disk(self) -> int | None:
        """Free bytes where the results go."""
        folder = self.results_dir
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            return None


def jobs_of(overrides: Sequence[str]) -> list[Job]:
    """The jobs that ``run -m`` would make of these overrides, each once and in order; none is run.

    Where a table is tuned on seeds of its own, a job stands for the one that tuning has not chosen yet.

    Raises:
        UserError, HydraException: as ``run`` does.
    """
    overrides = [text for text in overrides if not text.lstrip("+~").startswith(("hydra/", "hydra."))]
    parsed = [parse(text) for text in overrides]
    chosen = [o for o in parsed if o.key_or_group == "experiment" and not o.is_sweep_override()]
    layout = None
    if chosen:
        name = str(chosen[-1].value())
        base = Composer()([f"experiment={name}"], with_hydra=True)
        parsed = [*(parse(f"{key}={value}") for key, value in (base.hydra.sweeper.params or {}).items()), *parsed]
        layout = Layout.of(base, name) if base.get("table") is not None else None
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    planner = Planner()
    jobs = [planner.job(some) for some in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    jobs = list({job.identity: job for job in jobs}.values())
    if layout is not None:
        jobs = [job for job, need in zip(jobs, needs(jobs, layout)) if need is not Need.NO]
    return jobs


def foresee(jobs: Sequence[Job]) -> Forecast:
    """The states of jobs, and how long those that are left may take by the finished ones of their results folder."""
    jobs = list({job.identity: job for job in jobs}.values())
    root = Path(jobs[0].config["results_dir"]) if jobs else Path("results")
    steps, folders = [], records.Folders()
    for job in jobs:
        found = records.read(job.folder) if job.folder in folders else None
        state = "missing" if found is None else found.state
        if job.config["force"] and state in ("finished", "diverged"):
            state = "missing"  # it would be run anew
        step = Step(job, found, state, found.seconds if found else None)
        if found is not None and step.is_done:
            found.content, found.config = {}, {}  # of thousands of jobs; the job has its config
        steps.append(step)
    if any(not step.is_done for step in steps):
        history = _History(root, {job.task for job in jobs})
        for step in steps:
            if not step.is_done:
                history.estimate(step)
    return Forecast(steps, root)


@dataclass
class _Kin:
    """What an estimate needs of a finished job. ``gpus``: devices that it took; 0 on a CPU."""

    folder: Path
    seconds: float
    gpus: int


class _History:
    """Finished jobs by what they have in common, the nearest kin first."""

    def __init__(self, root: Path, tasks: set[str]) -> None:
        self._kinds: dict[tuple[Any, ...], list[_Kin]] = {}
        self._sizes: dict[Path, int] = {}
        self._known: dict[tuple[tuple[Any, ...], str | None], tuple[float, int, int] | None] = {}
        for task in tasks:
            for found in records.walk(root, task):
                # A resumed job's time is that of its last attempt only.
                if found.seconds is not None and found.content.get("resumed_from_step") is None:
                    devices = found.content.get("devices") if found.on_gpu else 0
                    kin = _Kin(found.folder, found.seconds, devices if isinstance(devices, int) else 1)
                    for _, key in _kinships(found.task, found.dataset, found.method, found.config):
                        self._kinds.setdefault(key, []).append(kin)
        for kind in self._kinds.values():
            kind.sort(key=lambda kin: kin.folder)

    def estimate(self, step: Step) -> None:
        job = step.job
        step.seconds, step.gpu, step.disk = None, 0, 0
        accelerator = job.config["trainer"].get("accelerator")
        for like, key in _kinships(job.task, job.dataset, job.method, job.config):
            if (key, accelerator) not in self._known:
                self._known[key, accelerator] = self._estimated(self._kinds.get(key, []), accelerator)
            known = self._known[key, accelerator]
            if known is not None:
                step.seconds, step.gpu, step.disk = known
                step.like = like
                return

    def _estimated(self, kin: list[_Kin], accelerator: str | None) -> tuple[float, int, int] | None:
        """Seconds, devices and bytes of a job like these, on such a machine; None if there is none."""
        if accelerator in ("cpu", "gpu"):
            kin = [one for one in kin if bool(one.gpus) == (accelerator == "gpu")]
        if not kin:
            return None
        on_gpu = [one.gpus for one in kin if one.gpus]
        disk = statistics.median(self._size(one.folder) for one in kin[-_SAMPLES:])
        gpus = on_gpu[0] if len(on_gpu) * 2 > len(kin) else 0
        return statistics.median(one.seconds for one in kin), gpus, round(disk)

    def _size(self, folder: Path) -> int:
        if folder not in self._sizes:
            self._sizes[folder] = size_of(folder)
        return self._sizes[folder]


def _kinships(task: str, dataset: str, method: str, config: dict[str, Any]) -> list[tuple[str, tuple[Any, ...]]]:
    """Keys of what a job has in common with others, from all but the seed down to the task."""
    debug = bool(config.get("debug"))
    knobs = {
        key: value for key, value in config.items()
        if key not in NOT_IDENTITY and key != "seed" and not isinstance(value, dict)
    }  # fmt: skip
    model = json.dumps(config.get("model"), sort_keys=True, default=str)
    options = json.dumps([knobs, config.get("method"), config.get("loop")], sort_keys=True, default=str)
    return [
        ("all but the seed", (debug, task, dataset, method, options)),
        ("dataset, method and model", (debug, task, dataset, method, "model", model)),
        ("dataset and method", (debug, task, dataset, method)),
        ("dataset", (debug, task, dataset)),
        ("task", (debug, task)),
    ]
