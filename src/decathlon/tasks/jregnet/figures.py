"""Figures of a job: training curves and allocation maps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.market import Market
from decathlon.tasks.jregnet.mechanisms import optimal
from decathlon.tasks.jregnet.methods import Method
from decathlon.tasks.jregnet.priors import Prior

Mechanism = Callable[..., Any]
STEPS = 61
MAPPED = 6  # bidders up to which an allocation map says something


def backend() -> Any:
    """matplotlib's pyplot, drawing into files."""
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
    pyplot = backend()
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
    pyplot = backend()
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
