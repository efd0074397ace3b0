"""Folders of results for the tests of what looks at them: finished jobs of the toy task that nothing has run, and a
folder in which everything is wrong that can be."""

import json
import os
import random
from pathlib import Path

from decathlon.runner.forecast import jobs_of
from decathlon.runner.job import Job


def finished(root: Path, *overrides: str, **extra: object) -> list[Job]:
    """The jobs of a sweep, each with a record of made-up numbers."""
    jobs = jobs_of(["task=toy", f"results_dir={root}", *overrides])
    for job in jobs:
        finish(job, **extra)
    return jobs


def finish(job: Job, **extra: object) -> None:
    """Write a record of made-up numbers."""
    draw = random.Random(job.identity)
    job.folder.mkdir(parents=True, exist_ok=True)
    record = {
        "status": "finished", "task": job.task, "dataset": job.dataset, "method": job.method, "seed": job.seed,
        "id": job.identity, "wall_time_s": 10.0, "peak_memory_mib": {"host": 900.0}, "seconds": {"fit": 9.0},
        "metrics": {"test/accuracy": draw.uniform(0.5, 1), "test/loss": draw.random()}, "resumed_from_step": None,
        "device": "a processor", "devices": 1, "versions": {}, "commit": None, "config": job.config, **extra,
    }  # fmt: skip
    job.finish(record)


def hostile(root: Path, strays: int) -> None:
    """Stray files at every depth, broken JSON of several kinds, a job of an unknown task, links, odd names."""
    for number in range(strays):
        place = root / ("", "toy", "toy/toy", "toy/toy/linear")[number % 4]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"stray{number}.txt").touch()
    base = root / "toy" / "toy" / "linear"
    for number, text in enumerate(
        ("", "{", "[1]", '{"metrics": 3}', "\x00\xff", "[" * 100_000, '{"metrics": {"a": "x"}}')
    ):
        folder = base / f"{number:012x}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(text, encoding="latin-1")
    odd = {"metrics": {"test/accuracy": 10**400, "a": [1]}, "wall_time_s": float("inf"), "peak_memory_mib": [1]}
    configs = ({"report": [{"a": 1}, None], "seed": "\ud83d"}, "text", {"task": None, "deep": {"": {"k": 1}}})
    for number, config in enumerate(configs, start=16):
        (base / f"{number:012x}").mkdir()
        (base / f"{number:012x}" / "metrics.json").write_text(json.dumps({**odd, "config": config}))
    for name, make in (("d" * 11 + "0", os.mkfifo), ("d" * 11 + "1", lambda path: os.symlink("metrics.json", path))):
        (base / name).mkdir()
        make(base / name / "metrics.json")
    (base / ("a" * 11 + "0")).mkdir()
    (base / ("a" * 11 + "0") / "config.yaml").write_text("x: &x {y: *x}")
    os.symlink("itself", root / "itself")
    no_text = os.fsencode(root) + b"/toy/\xff/new\nline/" + b"f" * 12
    os.makedirs(no_text)
    Path(os.fsdecode(no_text), "metrics.json").write_text(json.dumps(odd))
    (base / "aaaaaaaaaaaa").mkdir()
    (base / "aaaaaaaaaaaa" / "config.yaml").write_text("a: [1\nb: :")
    (base / "bbbbbbbbbbbb").mkdir()
    (base / "bbbbbbbbbbbb" / "failure.json").write_text("null")
    (base / "cccccccccccc").mkdir()
    (base / "cccccccccccc" / "metrics.json").mkdir()
    (base / "dddddddddddd").symlink_to(base)
    (base / "<script>alert(1)<").mkdir()
    unknown = root / "unheard" / "of" / "task" / "eeeeeeeeeeee"
    unknown.mkdir(parents=True)
    metrics = {"test/x": 1.0, "test/nan": float("nan"), "[red]": 2}
    record = {"metrics": metrics, "wall_time_s": "soon", "config": {"task": "text", "seed": [1, {"a": None}]}}
    (unknown / "metrics.json").write_text(json.dumps(record))
    os.symlink(root, root / "toy" / "loop")
