"""Bars of the relative improvement over Adam, from a table of finished jobs.

decathlon table pinn/fig4 --format json > fig4.json
python -m decathlon.tasks.pinn.improvement fig4.json fig4.png
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from decathlon.tasks.pinn.figures import improvement_figure


def relative_improvement(
    table: Mapping[str, Any], metric: str | None = None, baseline: str = "adam"
) -> dict[str, dict[str, float]]:
    """``100 (E_baseline - E_method)/E_baseline`` in percent: dataset -> method -> value (reconstructed definition).

    Args:
        table: the JSON form of a table with rows ``method`` and columns ``dataset``.
        metric: an error, such as ``test/mse_best``; by default the table's first one.
        baseline: the method that the others are compared with.

    Raises:
        ValueError: the table has no finished cells of the baseline.
    """
    cells = [cell for cell in table["cells"] if cell.get("mean") is not None]
    if metric is None and cells:
        metric = cells[0]["metric"]
    chosen = [cell for cell in cells if cell["metric"] == metric]
    errors = {(cell["dataset"], cell["method"]): float(cell["mean"]) for cell in chosen}
    datasets = [dataset for dataset, method in errors if method == baseline]
    if not datasets:
        raise ValueError(f"the table has no finished {baseline} jobs with the metric {metric}")
    return {
        dataset: {
            method: 100 * (1 - error / errors[dataset, baseline])
            for (place, method), error in errors.items()
            if place == dataset and method != baseline
        }
        for dataset in datasets
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: the table's JSON file, the picture to write, optionally the metric."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not 2 <= len(given) <= 3:
        print("usage: python -m decathlon.tasks.pinn.improvement TABLE.json PICTURE.png [METRIC]", file=sys.stderr)
        return 2
    try:
        with open(given[0], encoding="utf-8") as file:
            improvements = relative_improvement(json.load(file), given[2] if len(given) == 3 else None)
    except (OSError, ValueError, KeyError) as error:
        print(f"{given[0]}: {error}", file=sys.stderr)
        return 1
    improvement_figure(improvements).savefig(given[1], dpi=130)
    for dataset, methods in improvements.items():
        print(dataset, ", ".join(f"{method} {value:.1f} %" for method, value in methods.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
