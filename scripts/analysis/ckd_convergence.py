"""Recall@20 of all modalities and of each alone over epochs, finished jobs side by side (the convergence figure).

    python scripts/analysis/ckd_convergence.py results/ckd/baby out.png [joint ckd]

Reads ``curve.json`` of the jobs of one dataset: the first seed of each method that is named, by default joint and ckd.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from decathlon.tasks.ckd.figures import draw_curve


def curves(folder: Path, methods: list[str]) -> dict[str, Any]:
    """The curve of each method with its backbone, of its lowest seed."""
    found: dict[str, Any] = {}
    for method in methods:
        records = [json.loads(path.read_text()) | {"path": path} for path in folder.glob(f"{method}/*/metrics.json")]
        records = [record for record in records if record["path"].with_name("curve.json").exists()]
        for record in sorted(records, key=lambda record: record["config"]["seed"]):
            label = f"{method}, {record['config']['module']['backbone']}"
            found.setdefault(label, json.loads(record["path"].with_name("curve.json").read_text()))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Recall of all modalities and of each alone over epochs")
    parser.add_argument("folder", type=Path, help="results/ckd/<dataset>")
    parser.add_argument("out", type=Path)
    parser.add_argument("methods", nargs="*", default=["joint", "ckd"])
    options = parser.parse_args(arguments)
    found = curves(options.folder, options.methods)
    if not found:
        raise SystemExit(f"no finished jobs of {', '.join(options.methods)} in {options.folder}")
    draw_curve(options.out, found, options.folder.name)


if __name__ == "__main__":
    main()
