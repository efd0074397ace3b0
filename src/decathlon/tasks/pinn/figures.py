"""Figures of a finished run as PNG: the solution and its error, the loss terms and the test error over the steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from decathlon.tasks.pinn.problems.base import Problem


def save_figures(
    problem: Problem, prediction: Tensor, target: Tensor, history: Mapping[str, Sequence[float]], folder: Path
) -> None:
    """Write ``solution.png`` and, if there is a history, ``training.png`` into ``folder``.

    Args:
        prediction, target: (points, fields) on the problem's test grid.
        history: lists by name, one entry per evaluation; ``step`` is the abscissa.
    """
    folder.mkdir(parents=True, exist_ok=True)
    solution_figure(problem, prediction, target).savefig(folder / "solution.png", dpi=100)
    if history.get("step"):
        names = [name for name in problem.loss_names if name in history]
        training_figure(history, names).savefig(folder / "training.png", dpi=100)


def solution_figure(problem: Problem, prediction: Tensor, target: Tensor) -> Figure:
    """Reference, network and absolute error of every field over the first two coordinates; the others at their middle.

    A coordinate that has only one test value besides is no axis: with one coordinate the fields are drawn as curves.
    """
    axes = problem.test_axes()
    shape = [len(axis) for axis in axes]
    middle = tuple(size // 2 for size in shape[2:])
    height = 0.7 + 2.3 * len(problem.fields)
    figure = Figure(figsize=(11, height))
    figure.subplots_adjust(left=0.05, right=0.95, bottom=0.5 / height, top=1 - 0.45 / height, hspace=0.45, wspace=0.3)
    panels = figure.subplots(len(problem.fields), 3, squeeze=False)
    for row, name, found, wanted in zip(panels, problem.fields, prediction.double().t(), target.double().t()):
        pictures = {"reference": wanted, "network": found, "absolute error": (found - wanted).abs()}
        limits = float(wanted.min()), float(wanted.max())
        for panel, (title, values) in zip(row, pictures.items()):
            if len(shape) == 1:
                panel.plot(axes[0], values)
            else:
                flat = values.reshape(shape)[(slice(None), slice(None), *middle)]
                scale = {} if title == "absolute error" else {"vmin": limits[0], "vmax": limits[1]}
                extent = [float(axis[end]) for axis in axes[:2] for end in (0, -1)]
                # The grids are equidistant, so an image is as good as a mesh, and much faster to draw.
                picture = panel.imshow(flat.t(), origin="lower", aspect="auto", extent=extent, **scale)
                figure.colorbar(picture, ax=panel, fraction=0.05, pad=0.02).ax.tick_params(labelsize=7)
                panel.set_ylabel(problem.coordinates[1], labelpad=0)
            panel.set_title(f"{name}: {title}", fontsize=9)
            panel.set_xlabel(problem.coordinates[0], labelpad=0)
            panel.tick_params(labelsize=7)
    fixed = [f"{c} = {float(axis[i]):.3g}" for c, axis, i in zip(problem.coordinates[2:], axes[2:], middle)]
    if fixed:
        figure.suptitle(", ".join(fixed), fontsize=9)
    return figure


def training_figure(history: Mapping[str, Sequence[float]], losses: Sequence[str]) -> Figure:
    """The loss terms, each the mean since the last evaluation, and the test error, over the steps."""
    figure = Figure(figsize=(9, 3.2))
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.15, top=0.9, wspace=0.2)
    left, right = figure.subplots(1, 2)
    for name in losses:
        left.plot(_last(history["step"], history[name]), history[name], label=name)
    for name in ("mse", "mse_official"):
        if name in history:
            right.plot(_last(history["step"], history[name]), history[name], label=name)
    for panel, title in ((left, "training losses"), (right, "test error")):
        panel.set_yscale("log")
        panel.set_xlabel("step")
        panel.set_title(title, fontsize=9)
        panel.legend(fontsize=8)
    return figure


def improvement_figure(improvements: Mapping[str, Mapping[str, float]]) -> Figure:
    """Bars of the relative improvement over Adam in percent: problem -> method -> ``100 (MSE_Adam - MSE)/MSE_Adam``."""
    figure = Figure(figsize=(2 + 2.2 * len(improvements), 3.2), layout="constrained")
    panel = figure.subplots()
    methods = list(dict.fromkeys(method for each in improvements.values() for method in each))
    width = 0.8 / max(1, len(methods))
    for number, method in enumerate(methods):
        heights = [each.get(method, float("nan")) for each in improvements.values()]
        places = torch.arange(len(improvements)) + (number - (len(methods) - 1) / 2) * width
        panel.bar(places.numpy(), heights, width, label=method)
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_xticks(range(len(improvements)), list(improvements))
    panel.set_ylabel("improvement over Adam, %")
    panel.legend(fontsize=8)
    return figure


def _last(steps: Sequence[float], values: Sequence[float]) -> Sequence[float]:
    """The steps that belong to ``values``, which may have been logged from a later evaluation on."""
    return steps[len(steps) - len(values) :]
