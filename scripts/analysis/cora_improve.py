"""The paper's column "improve", recomputed: the mean over AUC and UAUC of CoRA-MF / baseline - 1.

    python scripts/analysis/cora_improve.py [results_dir]

Prints it for the published numbers of ``cora/overall`` and, where jobs are finished, for the measured ones.
"""

import sys
from typing import Any

from decathlon.runner.catalog import read

METRICS = ("test/auc", "test/uauc")


def improve(rows: dict[str, Any], dataset: str, method: str = "cora_mf") -> dict[str, float]:
    """By baseline the mean gain of ``method`` over it, as a share; baselines that lack a number are left out."""
    ours = rows[method][dataset]
    found = {}
    for name, cells in rows.items():
        cell = cells.get(dataset) or {}
        if name != method and all(cell.get(metric) for metric in METRICS):
            found[name] = sum(ours[metric] / cell[metric] - 1 for metric in METRICS) / len(METRICS)
    return found


def measured(results: str) -> dict[str, Any]:
    """The finished cells of ``cora/overall`` in the shape of the published ones."""
    import json
    from pathlib import Path

    rows: dict[str, Any] = {}
    for record in Path(results).glob("cora/*/*/*/metrics.json"):
        dataset, method = record.parts[-4], record.parts[-3]
        metrics = json.loads(record.read_text())["metrics"]
        if all(metrics.get(name) is not None for name in METRICS):
            rows.setdefault(method, {})[dataset] = {name: metrics[name] for name in METRICS}
    return rows


def main() -> None:
    """Print both."""
    sources = {"published": read("experiment/cora/overall")["table"]["paper"]}
    if len(sys.argv) > 1:
        sources["measured"] = measured(sys.argv[1])
    for source, rows in sources.items():
        for dataset in sorted({name for cells in rows.values() for name in cells}):
            if dataset not in rows.get("cora_mf", {}):
                continue
            print(f"{source}, {dataset}")
            for name, gain in improve(rows, dataset).items():
                print(f"  {name:14} {gain:7.2%}")


if __name__ == "__main__":
    main()
