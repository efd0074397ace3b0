"""Figures of a finished job: data, fit and residuals; the course of losses and of estimates."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from decathlon.tasks.ndde.data import DelayData
from decathlon.tasks.ndde.solvers.base import Solver
from decathlon.tasks.ndde.solvers.pinn import Pinn
from decathlon.tasks.ndde.verdict import Fit


def save_figures(data: DelayData, solver: Solver, fit: Fit | None, folder: Path) -> None:
    """Write ``solution.png``, and for networks ``training.png``, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    solution_figure(data, solver, fit).savefig(folder / "solution.png", dpi=100)
    if isinstance(solver, Pinn) and len(solver.history) > 1:
        training_figure(data, solver).savefig(folder / "training.png", dpi=100)


def solution_figure(data: DelayData, solver: Solver, fit: Fit | None) -> Figure:
    """Each unknown over time: reference, what was found, observations; below it the error and the residuals."""
    solution = solver.solution() if fit is None else fit.solution
    found = solution.rows(data.times).detach()
    n = len(found)
    figure = Figure(figsize=(4.2 * n + 1, 5.5), layout="constrained")
    panels = figure.subplots(2, n, squeeze=False, height_ratios=[2, 1])
    for j, name in enumerate(data.problem.names):
        top, bottom = panels[0][j], panels[1][j]
        if data.reference is not None:
            top.plot(data.times, data.reference[j], color="0.6", linewidth=3, label="reference")
            bottom.plot(data.times, found[j] - data.reference[j], label="found - reference")
        top.plot(data.times, found[j], "--", label="found")
        if data.observed is not None and fit is not None:
            seen = data.observed.seen[j]
            top.plot(data.observed.times[seen], data.observed.values[j, seen], "o", label="observed")
            bottom.plot(data.observed.times[seen], fit.residuals[j, seen], "o", label="residual")
        top.set_title(name, fontsize=10)
        bottom.axhline(0, color="black", linewidth=0.6)
        bottom.set_xlabel("t")
        for panel in (top, bottom):
            if panel.get_legend_handles_labels()[0]:
                panel.legend(fontsize=8)
    if fit is not None:
        text = ", ".join(f"{name} = {value:.5g}" for name, value in fit.estimates.items())
        figure.suptitle(f"{text} ({fit.verdict[:60]})", fontsize=10)
    return figure


def training_figure(data: DelayData, solver: Pinn) -> Figure:
    """The sum of the losses over the iterations of both stages, and the relative error or value of each estimate."""
    rows = torch.tensor(solver.history, dtype=torch.float64)
    steps = rows[:, 0] + rows[:, 1]
    names = [slot.name for slot in data.problem.slots]
    figure = Figure(figsize=(9 if names else 5, 3.2), layout="constrained")
    panels = figure.subplots(1, 2 if names else 1, squeeze=False)[0]
    panels[0].plot(steps, rows[:, 2])
    panels[0].set_yscale("log")
    panels[0].set_title("sum of the losses", fontsize=10)
    for k, name in enumerate(names):
        panels[1].plot(steps, rows[:, 3 + k], label=name)
    if names:
        panels[1].set_title("estimates", fontsize=10)
        panels[1].legend(fontsize=8)
    for panel in panels:
        panel.axvline(float(solver.adam), color="0.7", linewidth=0.8)
        panel.set_xlabel("iteration")
    return figure
