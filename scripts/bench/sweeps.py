"""Big sweeps: CPU seconds, peak memory and directory listings of planning, skipping and tabling thousands of jobs.

    python scripts/bench/sweeps.py [--jobs 10000] [--experiment molpeg/small] [--targets 60 60 20]

The sweep is that of an experiment with more seeds; its results folder is made up: a record for each job, none of which
is run. Each command runs in a process of its own, which counts its own time (user and system, no waiting). "Planned" is
``run -m ... --dry-run``, in an empty folder and with every other job finished; "skipped" is ``run -m ...`` with all
finished, "tabled" is ``decathlon table``, "listed" is ``decathlon runs``. A tenth of the jobs is measured first: what
grows by more than the jobs do is seen in the ratio of the two.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from decathlon.runner import forecast

_CHILD = """
import json, resource, sys
counts = {"os.scandir": 0, "os.listdir": 0, "open": 0}
def count(event, arguments):
    if event in counts:
        counts[event] += event != "open" or str(arguments[0]).startswith(folder)
folder, door, *words = sys.argv[1:]
sys.addaudithook(count)
from decathlon import cli, run
status = 0
try:
    (run if door == "run" else cli).main(words)
except SystemExit as error:
    status = error.code or 0
sys.stdout.flush()
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024,
                  counts["os.scandir"] + counts["os.listdir"], counts["open"]]), file=sys.stderr)
"""


@dataclass
class Cost:
    """What a command has used: CPU seconds, peak MiB, directory listings, files of the results opened."""

    seconds: float
    mib: float
    listings: int
    opened: int
    said: str


def measure(folder: Path, door: str, *words: str) -> Cost:
    """Run ``run`` or ``decathlon`` and count.

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
    return Cost(seconds, mib, listings, opened, done.stdout)


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


def costs(experiment: str, jobs: int, place: Path) -> tuple[int, dict[str, Cost]]:
    """The number of jobs of the sweep, and what each command costs."""
    full, empty = place / f"full-{jobs}", place / f"empty-{jobs}"
    each = len(forecast.jobs_of([f"experiment={experiment}", "seed=1000000"]))
    seeds, here = f"seed=range({-(-jobs // each)})", f"results_dir={full}"
    count = make_up([f"experiment={experiment}", seeds, here])
    sweep = ("run", "-m", f"experiment={experiment}", seeds)
    commands: dict[str, tuple[str, ...]] = {
        "planned, none finished": (*sweep, f"results_dir={empty}", "--dry-run"),
        "planned, half finished": (*sweep, here, "--dry-run"),
        "skipped": (*sweep, here),
        "tabled": ("decathlon", "table", experiment, seeds, here),
        "listed": ("decathlon", "runs", here, "--format", "csv"),
    }
    found = {}
    for name, command in commands.items():
        hidden = sorted(full.glob("*/*/*/*/metrics.json"))[::2] if "half" in name else []
        for path in hidden:
            path.rename(path.with_name("hidden"))
        found[name] = measure(full, *command)
        for path in hidden:
            path.with_name("hidden").rename(path)
        print(f"{count} jobs {name}: {found[name].seconds:.1f} s", file=sys.stderr, flush=True)
    return count, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--experiment", default="molpeg/small")
    parser.add_argument("--targets", type=float, nargs=3, default=[60.0, 60.0, 20.0], help="planned, skipped, tabled")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    planned, skipped, tabled = options.targets
    targets = {"skipped": skipped, "tabled": tabled}
    targets |= {"planned, none finished": planned, "planned, half finished": planned}
    with tempfile.TemporaryDirectory(prefix="sweeps-") as place:
        few, small = costs(options.experiment, options.jobs // 10, Path(place))
        many, large = costs(options.experiment, options.jobs, Path(place))
    print(f"{options.experiment}, {many} jobs (and {few}); CPU seconds, user and system")
    print("| | s | target | s of the tenth | MiB | MiB of the tenth | listings | of the tenth | files opened |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, cost in large.items():
        target = targets.get(name)
        met = "" if target is None else f"{target:g} {'met' if cost.seconds <= target else 'missed'}"
        tenth = small[name]
        print(f"| {name} | {cost.seconds:.1f} | {met} | {tenth.seconds:.1f} | {cost.mib:.0f} | {tenth.mib:.0f} "
              f"| {cost.listings} | {tenth.listings} | {cost.opened} |")  # fmt: skip


if __name__ == "__main__":
    main()
