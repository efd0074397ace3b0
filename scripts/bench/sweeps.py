"""Big sweeps: CPU seconds, peak memory and directory listings of planning, skipping and tabling thousands of jobs.

    python scripts/bench/sweeps.py [--jobs 1000 10000] [--experiment molpeg/small] [--only tabled ...]

The sweep is that of an experiment with more seeds; its results folder is made up: a record for each job, none of which
is run. Each command runs in a process of its own, which counts its own time (user and system, no waiting). "Planned" is
``run -m ... --dry-run``, in an empty folder and with every other job finished ("half planned"); "skipped" is
``run -m ...`` with all finished, "tabled" is ``decathlon table``, "listed" is ``decathlon runs``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decathlon.runner import forecast

COMMANDS = ("planned", "skipped", "tabled", "half planned", "listed")
TARGETS = {"planned": 60, "skipped": 60, "tabled": 20}  # CPU seconds for 10,000 jobs
_CHILD = """
import importlib, json, resource, sys
counts = {"os.scandir": 0, "os.listdir": 0, "open": 0}
def count(event, arguments):
    if event in counts:
        counts[event] += event != "open" or str(arguments[0]).startswith(folder)
folder, door, *words = sys.argv[1:]
sys.addaudithook(count)
status = 0
try:
    importlib.import_module(f"decathlon.{door}").main(words)
except SystemExit as error:
    status = error.code or 0
sys.stdout.flush()
used = resource.getrusage(resource.RUSAGE_SELF)
try:  # a started process inherits its parent's ru_maxrss
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
except OSError:
    peak = used.ru_maxrss
print(json.dumps([status, used.ru_utime + used.ru_stime, peak / 1024,
                  counts["os.scandir"] + counts["os.listdir"], counts["open"]]), file=sys.stderr)
"""


@dataclass
class Cost:
    """What a command has used: CPU seconds, peak MiB, directory listings, files of the results opened."""

    seconds: float
    mib: float
    listings: int
    opened: int


def measure(folder: Path, door: str, *words: str) -> Cost:
    """Run ``run`` or ``decathlon`` (its module ``cli``) and count.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), door, *words], cwd=folder.parent, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    *said, last = done.stderr.strip().splitlines()
    status, seconds, mib, listings, opened = json.loads(last)
    if status:
        raise RuntimeError(f"{door} {' '.join(words)} ended with {status}: {said}")
    return Cost(seconds, mib, listings, opened)


def make_up(overrides: list[str]) -> int:
    """Give every job of a sweep a record, as a finished run leaves one, with numbers that nobody has measured."""
    jobs = forecast.jobs_of(overrides)
    for number, job in enumerate(jobs):
        checkpoints = job.folder / "checkpoints"
        checkpoints.mkdir(parents=True)
        (job.folder / "lock").touch()
        (checkpoints / "last.ckpt").touch()
        metrics = {name: 0.5 + (number * 7919 % 1000) / 4000 for name in job.config["report"]}
        record = {
            "status": "finished", "task": job.task, "dataset": job.dataset, "method": job.method, "seed": job.seed,
            "id": job.identity, "wall_time_s": 10.0 + number % 7, "peak_memory_mib": {"host": 500.0},
            "metrics": metrics, "seconds": {"fit": 9.0, "test": 1.0}, "resumed_from_step": None, "device": "none",
            "devices": 1, "versions": {}, "commit": None, "config": job.config,
        }  # fmt: skip
        job.record_path.write_text(json.dumps(record, indent=2) + "\n")
    return len(jobs)


def costs(experiment: str, jobs: int, place: Path, only: Sequence[str]) -> tuple[int, dict[str, Cost]]:
    """The number of jobs of the sweep, and what each command costs."""
    full, empty = place / f"full-{jobs}", place / f"empty-{jobs}"
    each = len(forecast.jobs_of([f"experiment={experiment}", "seed=1000000"]))
    seeds, here = f"seed=range({-(-jobs // each)})", f"results_dir={full}"
    count = make_up([f"experiment={experiment}", seeds, here])
    sweep = ("run", "-m", f"experiment={experiment}", seeds)
    commands: dict[str, tuple[str, ...]] = {
        "planned": (*sweep, f"results_dir={empty}", "--dry-run"),
        "skipped": (*sweep, here),
        "tabled": ("cli", "table", experiment, seeds, here),
        "half planned": (*sweep, here, "--dry-run"),
        "listed": ("cli", "runs", here, "--format", "csv"),
    }
    found = {}
    for name in only:
        hidden = sorted(full.glob("*/*/*/*/metrics.json"))[::2] if name == "half planned" else []
        for path in hidden:
            path.rename(path.with_name("hidden"))
        found[name] = measure(full, *commands[name])
        for path in hidden:
            path.with_name("hidden").rename(path)
        print(f"{count} jobs {name}: {found[name]}", file=sys.stderr, flush=True)
    return count, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--experiment", default="molpeg/small")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=COMMANDS)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"{options.experiment}; CPU seconds, user and system")
    print("| | jobs | s | target | MiB | listings | files opened |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for jobs in options.jobs:
        with tempfile.TemporaryDirectory(prefix="sweeps-") as place:
            count, found = costs(options.experiment, jobs, Path(place), options.only)
        for name, cost in found.items():
            target = TARGETS.get(name) if count >= 10_000 else None
            met = "" if target is None else f"{target} {'met' if cost.seconds <= target else 'missed'}"
            print(f"| {name} | {count} | {cost.seconds:.1f} | {met} | {cost.mib:.0f} "
                  f"| {cost.listings} | {cost.opened} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
