"""Figures: training curves and allocation maps of a job; audit bars and the revenue-regret frontier of many jobs.

``python -m decathlon.tasks.jregnet.figures results/jregnet out`` draws the latter two from finished jobs.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from decathlon.errors import DataError
from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.market import Market
from decathlon.tasks.jregnet.mechanisms import optimal
from decathlon.tasks.jregnet.methods import Method
from decathlon.tasks.jregnet.priors import Prior

Mechanism = Callable[..., Any]
STEPS = 61
MAPPED = 6  # bidders up to which an allocation map says something
PANELS = 4  # audit bars of so many markets stand side by side


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def winning_probability(mechanism: Mechanism, auction: JointAuction, prior: Prior, bundle: int = 0) -> torch.Tensor:
    """(STEPS, STEPS) probability that ``bundle`` is shown, over its brand's value (rows) and its store's (columns).

    The other bidders are at their medians.
    """
    store, brand = auction.members[bundle]
    shares = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    axes = [prior.low[i] + shares * (prior.high[i] - prior.low[i]) for i in (brand, store)]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    middle = prior.quantile(torch.full((1, auction.bidders), 0.5, dtype=torch.float64))
    values = middle.repeat(STEPS * STEPS, 1)
    values[:, brand], values[:, store] = rows.flatten(), columns.flatten()
    shown = mechanism(auction, values.float(), present=None).allocation[:, bundle].sum(1)
    return shown.view(STEPS, STEPS).cpu()


def draw_allocation(path: Path, mechanism: Mechanism, auction: JointAuction, prior: Prior) -> None:
    """The learnt winning probability of the first bundle, beside the optimum's step."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.6), sharey=True, layout="constrained")
    store, brand = auction.members[0]
    extent = (float(prior.low[store]), float(prior.high[store]), float(prior.low[brand]), float(prior.high[brand]))

    def best(auction: JointAuction, bids: torch.Tensor, present: Any = None) -> Any:
        return optimal(auction, bids, prior, present)

    for axis, title, shown in zip(axes, ("learnt", "optimum"), (mechanism, best)):
        image = axis.imshow(
            winning_probability(shown, auction, prior), origin="lower", extent=extent, vmin=0, vmax=1, aspect="auto"
        )
        axis.set(title=title, xlabel="value of the store")
    axes[0].set_ylabel("value of the brand")
    figure.colorbar(image, ax=axes, label="P(first bundle is shown)")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_curves(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Validation revenue and virtual welfare beside the optimum, and regret, against iterations."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    steps = [point["iteration"] for point in curve]
    for name, label in (
        ("revenue", "revenue"),
        ("virtual_welfare", "virtual welfare"),
        ("opt", "optimum"),
        ("rvcg", "RVCG"),
    ):
        left.plot(
            steps, [point[name] for point in curve], label=label, linestyle="--" if name in ("opt", "rvcg") else "-"
        )
    left.set(xlabel="iteration", ylabel="per auction")
    left.legend()
    right.semilogy(steps, [max(point["regret"], 1e-9) for point in curve])
    right.set(xlabel="iteration", ylabel="mean regret")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_job(folder: str | Path, market: Market, method: Method, curve: Sequence[Mapping[str, float]]) -> None:
    """``curves.png``, and ``allocation.png`` where the method sells pairs on a fixed graph."""
    if curve:
        draw_curves(Path(folder) / "curves.png", curve)
    if len(method.auction.members[0]) == 2 and method.auction.bidders <= MAPPED and not market.varies:
        draw_allocation(Path(folder) / "allocation.png", method.mechanism(0), method.auction, method.prior)


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
    pyplot = _pyplot()
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
    pyplot = _pyplot()
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
