"""Pictures of a training: loss curves, and how well the subspaces fit the gradients."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from decathlon.files import atomic


def save_figures(
    folder: Path, losses: Sequence[float], validations: Sequence[Sequence[float]], probes: Sequence[Sequence[float]]
) -> None:
    """Write ``loss.png`` and, where there are probes, ``subspace.png`` into a job's folder.

    Args:
        losses: of each training step, in nats. validations: (step, loss). probes: (step, captured, drift, overlap).
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(range(1, len(losses) + 1), losses, lw=0.8, label="training")
    if validations:
        axes.plot(*zip(*((step, loss) for step, loss in validations)), "o-", label="validation")
    axes.set(xlabel="step", ylabel="loss, nats per token", title="Loss")
    axes.legend()
    _save(figure, folder / "loss.png")
    if not probes:
        return
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    steps, captured, drift, overlap = zip(*probes)
    axes.plot(steps, captured, "o-", label="captured energy / optimum")
    axes.plot(steps, overlap, "s-", label="overlap with the optimum")
    axes.plot(steps, drift, "^-", label="orthonormality error")
    axes.set(xlabel="step", ylim=(0, None), title="Subspaces, mean over the projected weights")
    axes.legend()
    _save(figure, folder / "subspace.png")


def _save(figure: plt.Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
