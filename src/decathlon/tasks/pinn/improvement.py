"""The relative improvement over Adam, from a table of finished jobs (drawn by scripts/analysis/pinn_improvement.py)."""

from collections.abc import Mapping
from typing import Any


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
