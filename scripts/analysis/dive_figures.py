"""Figures 3, 4 and 6 of DIVE from finished jobs with ``curves=true``.

``f1.png``: F1 of the masks on the OOD test set over epochs, mean over seeds and the range of one standard deviation,
one line for each method and member; ``members.png``: train and OOD test metric of each member over epochs;
``quality.png``: histograms of the precision and recall of each member's masks over the OOD test graphs. Members are
ordered by their F1 at the end, since which of them finds the motif differs from seed to seed.

``python scripts/analysis/dive_figures.py results/dive/motif out``
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot

Curve = dict[int, list[dict[str, float]]]
Jobs = dict[str, list[tuple[Curve, dict[str, Any] | None]]]


def read(folder: Path) -> Jobs:
    """The curves (for each member its rows) and the mask quality of every finished job, by method."""
    found: Jobs = defaultdict(list)
    for record in sorted(folder.rglob("metrics.json")):
        history, quality = record.with_name("history.csv"), record.with_name("mask_quality.json")
        if not history.exists():
            continue
        members: Curve = defaultdict(list)
        for row in csv.DictReader(history.open(encoding="utf-8")):
            numbers = {name: float(value) for name, value in row.items() if value}
            members[int(numbers["member"])].append(numbers)
        grades = json.loads(quality.read_text()) if quality.exists() else None
        name = json.loads(record.read_text())["config"]["method"]["name"]
        found[name].append((ordered(members), grades))
    return found


def ordered(members: Curve) -> Curve:
    """The members by their last F1 on the OOD test set, the best first."""
    by_quality = sorted(members, key=lambda k: -members[k][-1].get("ood_test/f1", 0.0))
    return {place: members[k] for place, k in enumerate(by_quality)}


def band(axis: Any, runs: list[list[dict[str, float]]], name: str, label: str, **style: Any) -> None:
    """Mean over runs, and one standard deviation to both sides."""
    runs = [run for run in runs if all(name in row for row in run)]
    if not runs:
        return
    length = min(map(len, runs))
    epochs = [row["epoch"] for row in runs[0][:length]]
    values = np.array([[row[name] for row in run[:length]] for run in runs])
    mean, spread = values.mean(0), values.std(0)
    (line,) = axis.plot(epochs, mean, label=label, **style)
    axis.fill_between(epochs, mean - spread, mean + spread, color=line.get_color(), alpha=0.2)


def f1_figure(jobs: Jobs, path: Path) -> None:
    """Figure 3."""
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for method, runs in jobs.items():
        for member in runs[0][0]:
            label = f"{method}, member {member}" if len(runs[0][0]) > 1 else method
            band(axis, [curves[member] for curves, _ in runs], "ood_test/f1", label)
    axis.set(xlabel="epoch", ylabel="mask F1, OOD test")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def members_figure(jobs: Jobs, path: Path) -> None:
    """Figure 6."""
    figure, axes = pyplot.subplots(1, len(jobs), figsize=(3.6 * len(jobs), 3.4), squeeze=False, layout="constrained")
    for axis, (method, runs) in zip(axes[0], jobs.items()):
        columns = {name for curves, _ in runs for row in curves[0] for name in row}
        metric = next(m for m in ("accuracy", "roc_auc", "mae") if f"ood_test/{m}" in columns)
        for member in runs[0][0]:
            for part, style in (("train", "--"), ("ood_test", "-")):
                label = f"{part.replace('_', ' ')}, member {member}"
                band(axis, [c[member] for c, _ in runs], f"{part}/{metric}", label, linestyle=style, color=f"C{member}")
        axis.set(title=method, xlabel="epoch", ylabel=metric)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def quality_figure(jobs: Jobs, path: Path) -> None:
    """Figure 4."""
    graded = {method: [grades for _, grades in runs if grades] for method, runs in jobs.items()}
    graded = {method: grades for method, grades in graded.items() if grades}
    figure, axes = pyplot.subplots(len(graded), 2, figsize=(7, 2.4 * len(graded)), squeeze=False, layout="constrained")
    for row, (method, grades) in zip(axes, graded.items()):
        for axis, name in zip(row, ("precision", "recall")):
            for place in range(len(grades[0]["f1"])):
                pooled: list[float] = []
                for one in grades:
                    order = np.argsort([-np.mean(values) for values in one["f1"]])
                    pooled += one[name][int(order[place])]
                axis.hist(pooled, bins=np.linspace(0, 1, 21).tolist(), alpha=0.5, label=f"member {place}")
            axis.set(title=f"{method}: {name}")
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: list[str]) -> None:
    """Draw what the folder's jobs have."""
    if len(arguments) != 2:
        raise SystemExit("usage: dive_figures.py <folder of results> <folder for the pictures>")
    source, out = Path(arguments[0]), Path(arguments[1])
    jobs = read(source)
    curved = {
        method: runs
        for method, runs in jobs.items()
        if any(
            "ood_test/accuracy" in row or "ood_test/roc_auc" in row or "ood_test/mae" in row for row in runs[0][0][0]
        )
    }
    if not curved:
        raise SystemExit(f"{source} has no finished jobs with curves=true")
    out.mkdir(parents=True, exist_ok=True)
    members_figure(curved, out / "members.png")
    masked = {m: runs for m, runs in curved.items() if "ood_test/f1" in runs[0][0][0][-1]}
    if masked:
        f1_figure(masked, out / "f1.png")
        quality_figure(masked, out / "quality.png")


if __name__ == "__main__":
    main(sys.argv[1:])
