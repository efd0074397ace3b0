"""Loss curves and captured energy of finished jobs, one line per method, in one picture.

``python scripts/analysis/osd_curves.py RESULTS OUT [dataset]``: RESULTS is ``results/osd``; the picture goes into OUT.
Curves of one method (its seeds and settings) are averaged where the text is the same; the text with the most jobs is
shown, and how many jobs of other texts are left out is said.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from decathlon.files import atomic

WINDOW = 10  # steps that a loss curve is smoothed over


def read(results: Path, dataset: str | None) -> dict[str, list[dict[str, Any]]]:
    """The curves of finished jobs by method, all on one text."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(results.glob(f"{dataset or '*'}/*/*/curves.json")):
        if (path.parent / "metrics.json").is_file():
            found[path.parent.parent.name].append(json.loads(path.read_text()))
    texts = Counter(job["corpus_sha256"] for jobs in found.values() for job in jobs)
    if not texts:
        raise SystemExit(f"there are no finished jobs with curves in {results}")
    text, count = texts.most_common(1)[0]
    if count < sum(texts.values()):
        print(f"{sum(texts.values()) - count} jobs on other texts are left out")
    kept = {method: [job for job in jobs if job["corpus_sha256"] == text] for method, jobs in found.items()}
    return {method: jobs for method, jobs in kept.items() if jobs}


def smooth(losses: list[float]) -> np.ndarray:
    window = min(WINDOW, len(losses))
    return np.convolve(losses, np.ones(window) / window, mode="valid")


def main(results: Path, out: Path, dataset: str | None = None) -> Path:
    """Draw the picture; its path."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for method, jobs in read(results, dataset).items():
        longest = max(len(job["losses"]) for job in jobs)
        curves = [smooth(job["losses"]) for job in jobs if len(job["losses"]) == longest]
        mean = np.mean(curves, axis=0)
        left.plot(np.arange(longest - len(mean), longest) + 1, mean, lw=1, label=f"{method} ({len(curves)})")
        probes = [job["probes"] for job in jobs if job["probes"] and len(job["losses"]) == longest]
        if probes:
            shortest = min(map(len, probes))
            steps, captured = np.mean([probe[:shortest] for probe in probes], axis=0).T[:2]
            right.plot(steps, captured, "o-", ms=3, lw=1, label=method)
    left.set(xlabel="step", ylabel=f"training loss, mean of {WINDOW} steps")
    right.set(xlabel="step", ylabel="captured energy / optimum", ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend(fontsize=7)
    path = out / "osd_curves.png"
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)
    return path


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit("usage: python scripts/analysis/osd_curves.py RESULTS OUT [dataset]")
    print(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
