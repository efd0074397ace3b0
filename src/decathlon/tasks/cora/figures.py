"""The picture of a job."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = {"mf": "MF", "frozen": "language model, frozen", "lr": "logistic regression", "bias": "shrunk means"}


def draw_job(
    folder: Path, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, float], curve: Sequence[Sequence[float]]
) -> None:
    """Draw ``scores.png``: AUC beside the baselines', scores by label, and validation during training."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    bars = {"this method": metrics["auc"], "  warm rows": metrics["auc_warm"], "  cold rows": metrics["auc_cold"]}
    bars |= {text: metrics[f"{name}_auc"] for name, text in NAMES.items() if f"{name}_auc" in metrics}
    axes[0].barh(list(bars)[::-1], list(bars.values())[::-1], color=["0.7"] * (len(bars) - 3) + ["C0"] * 3)
    axes[0].axvline(0.5, color="black", linewidth=0.8)
    axes[0].set(xlabel="AUC", xlim=(0.4, None))
    for label, text in ((0, "not liked"), (1, "liked")):
        scores = [row["score"] for row in rows if row["label"] == label and row["score"] is not None]
        axes[1].hist(scores, bins=30, alpha=0.6, label=text)
    axes[1].set(xlabel="score", ylabel="test rows")
    axes[1].legend()
    axes[2].plot([point[0] for point in curve], [point[1] for point in curve], marker="o", markersize=3)
    axes[2].set(xlabel="step", ylabel="validation AUC")
    figure.savefig(folder / "scores.png", dpi=120)
    plt.close(figure)
