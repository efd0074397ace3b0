"""The paper's motivation figure: the more of the old fact is left, the more questions fall back to it."""

from collections.abc import Sequence
from pathlib import Path

from decathlon.files import atomic
from decathlon.tasks.kele.evaluation.metrics import Row, quartiles


def draw_buckets(rows: Sequence[Row], path: Path) -> None:
    """A PNG: quarters of the cases by Retain Score against the shares of questions with the old and the new answer.

    Draws nothing if no question was answered.
    """
    old, new = quartiles(rows, "rs_prob", "rev"), quartiles(rows, "rs_prob", "mh")
    if not old:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bounds = quartiles(rows, "rs_prob", "rs_prob")
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for offset, shares, label in ((-0.2, old, "original answer"), (0.2, new, "new answer")):
        axes.bar([index + offset for index in range(len(shares))], shares, 0.4, label=label)
    axes.set_xticks(range(len(bounds)), [f"{value:.3g}" for value in bounds])
    axes.set_xlabel("mean Retain Score (probability of the old object) of each quarter of the cases")
    axes.set_ylabel("share of multi-hop questions")
    axes.set_ylim(0, 1)
    axes.legend()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
