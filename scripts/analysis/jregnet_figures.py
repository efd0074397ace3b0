"""Audit bars and the revenue-regret frontier of many jobs.

    python scripts/analysis/jregnet_figures.py results/jregnet out

Reads the finished jobs' records and draws ``audit.png`` and ``frontier.png``, one market each: a dataset with its
distribution, click rates, number of bundles and size.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decathlon.errors import DataError
from decathlon.tasks.jregnet.figures import backend

PANELS = 4  # audit bars of so many markets stand side by side


def read_jobs(results: Path) -> list[dict[str, Any]]:
    """Metrics of the finished jobs under ``results``, averaged over seeds.

    Each row has its ``method`` and, as ``dataset``, the market's name with whatever differs from that dataset's own
    distribution, click rates and graph: ``G, bundles 8, normal``.

    Raises:
        DataError: there are none.
    """
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for path in sorted(results.glob("**/metrics.json")):
        record = json.loads(path.read_text())
        config = record["config"]
        groups.setdefault((market_label(config), config["method"]["name"]), []).append(record["metrics"])
    if not groups:
        raise DataError(f"no finished jobs under {results}")
    rows = []
    for (dataset, method), runs in groups.items():
        names = [name for name in runs[0] if all(run.get(name) is not None for run in runs)]
        means = {name: sum(run[name] for run in runs) / len(runs) for name in names}
        rows.append({"dataset": dataset, "method": method, **means})
    return rows


def market_label(config: Mapping[str, Any]) -> str:
    """One line that tells the market of a job from all others of the same dataset."""
    dataset = config["dataset"]
    parts = [str(dataset["name"])]
    if dataset.get("size") is not None:
        parts.append(f"size {dataset['size']}")
    if config.get("bundles") is not None:
        parts.append(f"bundles {config['bundles']}")
    for name in ("distribution", "click_rates"):
        value = config.get(name)
        if value is not None and value != dataset.get(name):
            parts.append(value if isinstance(value, str) else json.dumps(value))
    return ", ".join(parts)


def draw_audit_bars(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Per method: virtual welfare (solid) and the revenue above it (hatched: only there because nobody reacts)."""
    pyplot = backend()
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    columns = min(PANELS, len(datasets))
    lines = -(-len(datasets) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.5 * columns, 3.8 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(datasets) :]:
        axis.set_axis_off()
    for axis, dataset in zip(axes.flat, datasets):
        here = [row for row in rows if row["dataset"] == dataset and "test/virtual_welfare" in row]
        names = [row["method"] for row in here]
        real = [min(row["test/virtual_welfare"], row["test/revenue"]) for row in here]
        leak = [max(row["test/revenue"] - row["test/virtual_welfare"], 0.0) for row in here]
        axis.bar(names, real, label="backed by the allocation")
        axis.bar(names, leak, bottom=real, hatch="//", alpha=0.6, label="only if nobody reacts")
        if here and "test/opt" in here[0]:
            axis.axhline(here[0]["test/opt"], color="black", linestyle="--", label="optimum")
        axis.set(title=dataset, ylabel="revenue per auction")
        axis.tick_params(axis="x", rotation=60)
    axes[0][0].legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_frontier(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Revenue as a share of the optimum against mean regret, one point per market and method."""
    pyplot = backend()
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in rows):
        here = [row for row in rows if row["method"] == method and row.get("test/opt")]
        regret = [max(row["test/regret"], 1e-6) for row in here]
        axis.scatter(regret, [row["test/revenue"] / row["test/opt"] for row in here], label=method)
    axis.axhline(1.0, color="black", linestyle="--")
    axis.set(xscale="log", xlabel="mean regret (at least 1e-6)", ylabel="revenue / optimum")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw ``audit.png`` and ``frontier.png`` from finished jobs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("results", type=Path, help="a folder of finished jobs, for example results/jregnet")
    parser.add_argument("out", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    try:
        rows = read_jobs(options.results)
    except DataError as error:
        raise SystemExit(str(error)) from None
    options.out.mkdir(parents=True, exist_ok=True)
    draw_audit_bars(options.out / "audit.png", rows)
    draw_frontier(options.out / "frontier.png", rows)


if __name__ == "__main__":
    main()
