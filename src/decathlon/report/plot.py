"""``decathlon plot``: the charts of a table as PNG or SVG files, drawn by matplotlib."""

from pathlib import Path
from typing import Any

from decathlon.report.charts import Bars, Chart, Lines, Named, of_claim, of_table
from decathlon.tables.table import Table


def draw(table: Table, folder: Path, form: str) -> list[Path]:
    """Write each chart of a table, and the paired differences of its claims, into ``folder``; returns the files."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    named = of_table(table)
    for place, verdict in enumerate(table.verdicts, start=1):
        dots = of_claim(verdict)
        if dots is not None:
            dots.title = f"{verdict.verdict}: {verdict.says}"
            named.append(Named(f"claim-{place}", dots))
    paths = []
    for one in named:
        figure = Figure(figsize=(7, _height(one.chart)), layout="constrained")
        _draw(figure.subplots(), one.chart)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{table.name.replace('/', '-')}-{one.name}.{form}"
        figure.savefig(path, dpi=200)
        paths.append(path)
    return paths


def _height(chart: Chart) -> float:
    if isinstance(chart, Bars):
        return 1.2 + 0.3 * len(chart.bars)
    return 4.2 if isinstance(chart, Lines) else 1.8


def _draw(axes: Any, chart: Chart) -> None:
    axes.set_title(_plain(chart.title), fontsize=10, wrap=True)
    if isinstance(chart, Bars):
        known = [(place, bar) for place, bar in enumerate(chart.bars) if bar.value is not None]
        places = [place for place, _ in known]
        axes.barh(
            places, [bar.value for _, bar in known], xerr=[bar.spread for _, bar in known], height=0.65, capsize=2
        )
        for place, bar in known:
            if bar.reference is not None:
                axes.plot([bar.reference] * 2, [place - 0.42, place + 0.42], color="C1", linewidth=2)
        axes.set_yticks(range(len(chart.bars)), [_plain(bar.label) for bar in chart.bars])
        axes.invert_yaxis()
    elif isinstance(chart, Lines):
        for series in chart.series:
            x, y, spread = zip(*series.points)
            axes.errorbar(x, y, yerr=spread, marker="o", markersize=3, capsize=2, label=_plain(series.label))
        axes.set_xlabel(_plain(chart.x_label))
        if chart.log_x:
            axes.set_xscale("log")
        if len(chart.series) > 1:
            axes.legend(fontsize=8)
    else:
        axes.axvline(0, color="0.5", linestyle="--")
        axes.plot([value for _, value in chart.values], [1.0] * len(chart.values), "o")
        axes.errorbar([chart.mean], [0.5], xerr=[chart.half], marker="|", color="k", capsize=3)
        axes.set_ylim(0, 1.5)
        axes.set_yticks([])


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
