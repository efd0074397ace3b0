"""Pictures: Recall of all modalities and of each alone over the epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decathlon.tasks.ckd.training import SELECTION

Curve = Sequence[Mapping[str, float]]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_curve(path: Path, curves: Mapping[str, Curve], title: str) -> None:
    """Validation Recall@20 over epochs, one panel for each curve: the prediction, and each modality alone.

    Args:
        curves: by label; a point has ``epoch``, ``recall@20`` and ``recall@20/<modality>``.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1, len(curves), figsize=(4.2 * len(curves), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (label, curve) in zip(axes[0], curves.items()):
        epochs = [point["epoch"] for point in curve]
        for name in [key for key in curve[0] if key.startswith(SELECTION)]:
            alone = name.partition("/")[2]
            words = f"id + {alone} alone" if alone else "all modalities"
            axis.plot(epochs, [point[name] for point in curve], "--" if alone else "-", label=words)
        axis.set(xlabel="epoch", title=f"{label} on {title}")
    axes[0][0].set_ylabel("Recall@20, validation")
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].legend(fontsize="x-small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
