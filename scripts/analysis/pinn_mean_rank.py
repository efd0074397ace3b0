"""Mean rank (MR) of the methods on a multi-task dataset: the mean over attributes of the rank by F1 (ConFIG, Fig. 11).

    python scripts/analysis/pinn_mean_rank.py results/pinn/celeba

Reads the finished jobs' records. Jobs of one method that differ in an option (``lr``, ``updates_per_step``, ...)
count as different methods. Ranks are taken within each seed that every method has, then averaged.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from decathlon.tasks.pinn.multitask.metrics import mean_ranks


def options(record: dict[str, Any]) -> dict[str, Any]:
    """What may tell two jobs of a method apart: scalars of the method, and the knobs."""
    config = record["config"]
    chosen = {f"method.{key}": value for key, value in config["method"].items() if not isinstance(value, dict | list)}
    chosen |= {key: config[key] for key in ("lr", "steps") if key in config}
    return {key: value for key, value in chosen.items() if key not in ("method.seed", "method.title", "method.class")}


def labels(records: list[dict[str, Any]]) -> list[str]:
    """Method names, with those options that differ among the jobs of the method."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in records:
        for key, value in options(record).items():
            seen[record["method"]][key].add(repr(value))
    found = []
    for record in records:
        varying = [key for key, values in seen[record["method"]].items() if len(values) > 1]
        own = options(record)
        found.append(" ".join([record["method"], *(f"{key}={own.get(key)}" for key in varying)]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="mean rank of the methods by F1 over the attributes")
    parser.add_argument("folder", type=Path, help="results/pinn/<dataset>")
    folder = parser.parse_args().folder
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*/metrics.json"))]
    records = [record for record in records if record["status"] == "finished"]
    if not records:
        raise SystemExit(f"no finished job in {folder}")
    scores: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for record, label in zip(records, labels(records)):
        scores[label][record["seed"]] = {k: v for k, v in record["metrics"].items() if k.startswith("test/f1/")}
    seeds = sorted(set.intersection(*(set(found) for found in scores.values())))
    if not seeds:
        raise SystemExit("the methods have no seed in common")
    methods = sorted(scores)
    ranks = []
    for seed in seeds:
        attributes = sorted(scores[methods[0]][seed])
        rows = [[scores[name][seed].get(key, float("nan")) for key in attributes] for name in methods]
        ranks.append(mean_ranks(torch.tensor(rows)))
    mean = torch.stack(ranks).mean(dim=0).tolist()
    print(f"{len(methods)} methods, seeds {seeds}")
    for rank, name in sorted(zip(mean, methods)):
        f1 = fmean(fmean(scores[name][seed].values()) for seed in seeds)
        print(f"  MR {rank:5.2f}   mean F1 {100 * f1:6.2f} %   {name}")


if __name__ == "__main__":
    main()
