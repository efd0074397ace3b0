"""Two methods compared scenario by scenario: the ratio of their mean latencies with a paired 95 % t interval.

All methods of a seed meet the same traffic, tasks and failures, so the scenarios of finished jobs that agree in all but
the method are pairs.

``python scripts/analysis/cave_paired.py results/cave cave fpso_mr [--metric latency|effective]``
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from decathlon.rows import read_rows

DEADLINE = 5.0


def scenario_latency(row: dict[str, Any], metric: str) -> float:
    """Mean latency of a scenario's counted tasks, NaN without any."""
    values = [value for value in row["latency"] if value is not None]
    if metric == "effective":
        values = [min(DEADLINE if value is None else value, DEADLINE) for value in row["latency"]]
    return sum(values) / len(values) if values else math.nan


def read(results: Path, metric: str) -> dict[str, dict[tuple[str, int, str], dict[str, float]]]:
    """setting → (seed's setting, seed, scenario) → method → latency."""
    found: dict[str, dict[tuple[str, int, str], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(results.glob("**/metrics.json")):
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        if config["task"]["name"] != "cave" or config["dataset"]["source"] == "instances":
            continue
        names = ("rate", "target", "epoch", "sharing", "participation", "density", "scenarios", "counted")
        setting = ", ".join([config["dataset"]["name"], *(f"{name} {config[name]}" for name in names[:2])])
        exact = json.dumps([config["dataset"], *(config[name] for name in names)], sort_keys=True)
        for row in read_rows(path.parent):
            value = scenario_latency(row, metric)
            if math.isfinite(value):
                found[setting][exact, config["seed"], row["id"]][config["method"]["name"]] = value
    return found


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of ratios and its 95 % t interval, in logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return math.exp(mean), math.nan, math.nan
    error = math.sqrt(sum((value - mean) ** 2 for value in logs) / (len(logs) - 1) / len(logs))
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * error
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("method")
    parser.add_argument("against")
    parser.add_argument("--metric", choices=("latency", "effective"), default="effective")
    options = parser.parse_args(arguments)
    printed = False
    for setting, pairs in read(options.results, options.metric).items():
        both = [values for values in pairs.values() if options.method in values and options.against in values]
        if not both:
            continue
        ratios = [values[options.method] / values[options.against] for values in both]
        mean, low, high = interval(ratios)
        lower = sum(ratio < 1 for ratio in ratios)
        print(
            f"{setting}: {options.method} / {options.against} = {mean:.3f} [{low:.3f}, {high:.3f}], "
            f"lower in {lower} of {len(ratios)} scenarios"
        )
        printed = True
    if not printed:
        raise SystemExit(f"no scenarios of both {options.method} and {options.against} under {options.results}")


if __name__ == "__main__":
    main()
