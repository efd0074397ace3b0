"""Sweeps: which of their jobs are left to do, how far they are, and how they ended.

The state of a sweep is in the folders of its jobs, not here: the same command again skips what is finished, whatever
launcher ran it. What lies in the sweep's own folder (a plan, and how each of its jobs ended) serves what is said of it,
and goes with it.
"""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from decathlon import files, locks
from decathlon.errors import UserError
from decathlon.runner import groups
from decathlon.runner.compose import Composer
from decathlon.runner.job import Job
from decathlon.runner.layout import Layout
from decathlon.runner.planning import Planner, parse
from decathlon.runner.records import Folders
from decathlon.runner.tuning import Need, is_tuned_apart, needs

# Looking for plugins runs their modules a second time: the class that we derive from must be the later one.
Plugins.instance()
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402

_FOLDER = "DECATHLON_SWEEP"  # in the environment of a sweep's jobs: the name of the folder of its notes
# Set in the process that started the sweep; read by `run` for its exit status.
failed_jobs: list[str] = []


class Notes:
    """The notes of a running sweep: ``plan.json``, and ``<number>.<status>.json`` for each job that has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_this_job(cls) -> "Notes":
        """Those of the sweep that the current Hydra job belongs to."""
        return cls(Path(HydraConfig.get().sweep.dir, os.environ.get(_FOLDER, "outcomes")))

    def plan(self, jobs: int, skipped: int, start: float) -> None:
        """Note how many jobs there are, how many of them needed no run, and when the sweep began."""
        plan = {"jobs": jobs, "skipped": skipped, "start": start}
        files.write_text(self.folder / "plan.json", json.dumps(plan))

    def read_plan(self) -> dict[str, Any] | None:
        """The plan; None where another sweeper than ours chooses the jobs."""
        try:
            return json.loads((self.folder / "plan.json").read_text())
        except (OSError, ValueError):
            return None

    def leave(self, number: int, outcome: dict[str, Any]) -> None:
        """Note how a job ended, in the place of an earlier note: Ray starts the jobs of dead nodes anew."""
        path = self.folder / f"{number}.{outcome['status']}.json"
        files.write_text(path, json.dumps(outcome))
        for other in self.folder.glob(f"{number}.*.json"):
            if other != path:
                other.unlink(missing_ok=True)

    def outcomes(self) -> dict[int, dict[str, Any]]:
        """How jobs ended, by number."""
        ended = sorted(self.statuses().items())
        return {number: json.loads((self.folder / f"{number}.{status}.json").read_text()) for number, status in ended}

    def statuses(self) -> dict[int, str]:
        """How jobs ended in one word, by number: one listing, where a job's outcome would be a file each."""
        found = [re.fullmatch(r"(\d+)\.(\w+)\.json", path.name) for path in self.folder.glob("*.json")]
        return {int(match[1]): match[2] for match in found if match}

    def count(self, *statuses: str) -> int:
        """How many jobs ended so."""
        return sum(status in statuses for status in self.statuses().values())


# A job that is left: its overrides, and its folder unless a value of it is wrong.
_Todo = tuple[Sequence[str], Path | None]
# The sweep that this process has started, for what is said when it is interrupted.
current: Notes | None = None
# The lock that says so to others: not in the callback, which launchers send to their workers.
_alive = ExitStack()


def in_sweep() -> bool:
    """Whether the current Hydra job is one of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def leave_outcome(outcome: dict[str, Any]) -> None:
    """Note how a job of the current sweep ended, for the parent's summary."""
    hydra = HydraConfig.get()
    Notes.of_this_job().leave(hydra.job.num, {"job": " ".join(hydra.overrides.task), **outcome})


def passes_over() -> bool:
    """Whether a job that another process has is left for later; otherwise it is waited for."""
    return in_sweep() and Notes.of_this_job().read_plan() is not None


def position() -> str:
    """``job 7 of 95, about 6 min left`` of the current job, or nothing."""
    plan = Notes.of_this_job().read_plan() if in_sweep() else None
    if plan is None:
        return ""
    left = plan["jobs"] - plan["skipped"]
    ended = Notes.of_this_job().count("finished", "failed")
    number = min(plan["skipped"] + HydraConfig.get().job.num + 1, plan["jobs"])
    text = f"job {number} of {plan['jobs']}"
    if ended and left > ended:
        text += f", about {duration((time.time() - plan['start']) / ended * (left - ended))} left"
    return text


def duration(seconds: float) -> str:
    """``40 s``, ``6 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Sweeper(BasicSweeper):
    """Hydra's sweeper, which launches only what is not finished.

    A job that another process runs is passed over, and looked at again when the others are done.
    """

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None and self.launcher is not None
        parsed = [parse(argument) for argument in [*self._parse_config(), *arguments]]
        combinations = self.split_arguments(parsed, max_batch_size=None)[0]
        notes = current or Notes(Path(str(self.config.hydra.sweep.dir), "outcomes"))
        number, results, begun = 0, [], time.time()
        for jobs, skipped, todo in self._rounds(combinations):
            notes.plan(jobs, skipped, begun)
            while todo:
                size = self.max_batch_size or len(todo)
                passed: list[_Todo] = []
                for start in range(0, len(todo), size):
                    batch = todo[start : start + size]
                    done = self.launcher.launch([list(combination) for combination, _ in batch], initial_job_idx=number)
                    for result in done:
                        _ = result.return_value  # raises what is no failure of the job itself
                    results.append(done)
                    passed += _passed_over(notes, number, batch)
                    number += len(batch)
                todo = _wait_for_one(passed)
        return results

    def _rounds(self, combinations: Sequence[Sequence[str]]) -> Iterator[tuple[int, int, list["_Todo"]]]:
        """How many jobs there are, how many of them are not to be run, and those that are: once, or twice.

        Twice where a table is tuned on seeds of its own: the jobs of the other seeds follow when those are done.
        """
        assert self.config is not None
        planner, folders = Planner(self._composer()), Folders()
        layout = None
        if self.config.get("table") is not None:
            layout = Layout.of(self.config, str(self.config.hydra.runtime.choices.get("experiment")))
        apart = layout is not None and is_tuned_apart(layout)
        known: set[str] = set()
        jobs: list[tuple[Sequence[str], Job]] = []
        todo: list[_Todo] = []
        skipped = 0
        for combination in combinations:
            job = _planned(planner, combination)
            if job is None:
                todo.append((combination, None))
            elif job.identity not in known:  # else it differs in a knob that this method ignores
                known.add(job.identity)
                if apart:
                    jobs.append((combination, job))
                elif _is_finished(job, folders):
                    skipped += 1
                else:
                    # Not the job: thousands of configs would be kept.
                    todo.append((combination, job.folder))
        if not apart:
            yield len(todo) + skipped, skipped, todo
            return
        assert layout is not None
        wrong, asked = len(todo), [False] * len(jobs)
        while not all(asked):
            needed = needs([job for _, job in jobs], layout)
            ready = [place for place, need in enumerate(needed) if need is Need.YES and not asked[place]]
            if not ready:
                _say_untuned(needed)
                return
            for place in ready:
                asked[place] = True
            more: list[_Todo] = [
                (jobs[place][0], jobs[place][1].folder) for place in ready if not _is_finished(jobs[place][1])
            ]
            skipped += len(ready) - len(more)
            yield sum(need is not Need.NO for need in needed) + wrong, skipped, todo + more
            todo = []

    def _composer(self) -> Any:
        """How a job's config is composed: from what has been read once, unless the command names other folders."""
        assert self.config is not None and self.hydra_context is not None
        config, loader = self.config, self.hydra_context.config_loader
        fast = Composer(jobs_only=True)
        places = [[(source.provider, source.path) for source in one.get_sources()] for one in (loader, fast.loader)]
        told = any("searchpath" in override for override in self.config.hydra.overrides.hydra)
        if places[0] == places[1] and self.config.hydra.job.config_name == "run" and not told:
            return fast

        def compose(overrides: Sequence[str]) -> DictConfig:
            cfg = loader.load_sweep_config(config, list(overrides))
            with open_dict(cfg):
                cfg.pop("hydra")
            return cfg

        return compose


def _is_finished(job: Job, folders: Folders | None = None) -> bool:
    if job.config["force"] or (folders is not None and job.folder not in folders):
        return False
    return job.record() is not None


def _say_untuned(needed: Sequence[Need]) -> None:
    from decathlon.runner.console import console

    waiting = sum(need is Need.LATER for need in needed)
    if waiting:
        console.print(f"{waiting} jobs wait: the jobs that their setting is tuned by have not all finished")


def _planned(planner: Planner, combination: Sequence[str]) -> Job | None:
    """The job; None if its values are wrong, which it will say itself. What cannot be composed ends the sweep."""
    try:
        return planner.job(combination)
    except (UserError, OmegaConfBaseException):
        return None


def _passed_over(notes: Notes, first: int, batch: Sequence[_Todo]) -> list[_Todo]:
    """The jobs of a batch that another process has. One that has left no outcome has failed."""
    ended = notes.statuses()
    passed: list[_Todo] = []
    for number, (combination, folder) in enumerate(batch, start=first):
        if number not in ended:
            failed_jobs.append(" ".join(combination))
        elif ended[number] == "locked":
            passed.append((combination, folder))
    return passed


def _wait_for_one(passed: list[_Todo]) -> list[_Todo]:
    """The jobs that were passed over, as soon as one of them is to be had."""
    from decathlon.runner.console import console

    if passed:
        console.print(f"{len(passed)} of the jobs are being run by another process; waiting for them")
    while passed and all(folder is not None and locks.is_locked(folder / "lock") for _, folder in passed):
        time.sleep(0.5)
    return passed


# Hydra accepts plugins only by a name in the package `hydra_plugins`.
Plugins.instance().class_name_to_class[groups.SWEEPER] = Sweeper


class SweepReport(Callback):
    """Says how a sweep has ended, in the process that started it, and clears away its notes."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global current
        folder = Path(str(config.hydra.sweep.dir))
        _clear_dead(folder)
        name = f".sweep-{secrets.token_hex(6)}"
        current = Notes(folder / name)
        with suppress(OSError):  # Hydra turns an error here into a warning; the sweeper's first note tells it
            _alive.enter_context(locks.locked(current.folder / "lock"))
        # What Hydra's launchers compose a job from: each job finds the notes of this very sweep.
        config.hydra.overrides.hydra.append(f"+hydra.job.env_set.{_FOLDER}={name}")
        failed_jobs.clear()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from decathlon.runner.console import say_sweep

        assert current is not None
        outcomes = [outcome for outcome in current.outcomes().values() if outcome["status"] != "locked"]
        plan = current.read_plan() or {"skipped": 0}
        say_sweep(outcomes, plan["skipped"])
        failed_jobs.extend(outcome["job"] for outcome in outcomes if outcome["status"] == "failed")
        _alive.close()
        _remove(current.folder)


def how_far() -> str:
    """How many jobs of the interrupted sweep are done; nothing if there is none."""
    plan = current.read_plan() if current is not None else None
    if current is None or plan is None:
        return ""
    _alive.close()
    done = plan["skipped"] + current.count("finished", "skipped")
    _remove(current.folder)
    return f"{done} of {plan['jobs']} jobs are done"


def _clear_dead(folder: Path) -> None:
    """Remove the notes of sweeps that were killed: in this folder, and beside it where all sweeps have theirs."""
    places = [folder, *(folder.parent.glob("*") if folder.parent.name == ".sweeps" else [])]
    for notes in [path for place in places for path in place.glob(".sweep-*")]:
        if not locks.is_locked(notes / "lock"):
            _remove(notes)


def _remove(notes: Path) -> None:
    """Remove a sweep's notes, and its folder and the folder of sweeps if nothing else is in them."""
    shutil.rmtree(notes, ignore_errors=True)
    with suppress(OSError):
        notes.parent.rmdir()
        if notes.parent.parent.name == ".sweeps":
            notes.parent.parent.rmdir()
