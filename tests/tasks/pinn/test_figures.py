"""Figures and the relative improvement over Adam."""

import json
from pathlib import Path

import pytest
import torch

from decathlon.tasks.pinn.figures import save_figures, solution_figure
from decathlon.tasks.pinn.improvement import relative_improvement
from decathlon.tasks.pinn.problems import HeatMultiscale, Kovasznay
from tests.conftest import script


def table(**means: float) -> dict:
    cells = [
        {"method": name.split("_")[0], "dataset": name.split("_")[1], "metric": "test/mse_best", "mean": mean}
        for name, mean in means.items()
    ]
    cells.append({"method": "adam", "dataset": "burgers", "metric": "test/mse", "mean": 7.0})
    return {"cells": cells}


def test_relative_improvement() -> None:
    found = relative_improvement(table(adam_burgers=4.0, config_burgers=1.0, adam_ks=2.0, config_ks=3.0))
    assert found == {"burgers": {"config": 75.0}, "ks": {"config": -50.0}}
    with pytest.raises(ValueError, match="no finished adam jobs"):
        relative_improvement({"cells": []})


def test_improvement_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, picture = tmp_path / "table.json", tmp_path / "bars.png"
    source.write_text(json.dumps(table(adam_burgers=4.0, config_burgers=1.0)))
    main = script("analysis/pinn_improvement.py").main
    assert main([str(source), str(picture)]) == 0
    assert picture.stat().st_size > 3000 and "config 75.0 %" in capsys.readouterr().out
    assert main([str(tmp_path / "none.json"), str(picture)]) == 1
    with pytest.raises(SystemExit):
        main([])


def test_solution_figure_shows_every_field_and_its_error() -> None:
    problem = Kovasznay({"pde": 2, "boundary": 2})
    exact = problem.reference()
    figure = solution_figure(problem, exact + 1, exact)
    panels = [axis for axis in figure.axes if axis.get_title()]  # the others are colour bars
    assert [panel.get_title() for panel in panels][:3] == ["u: reference", "u: network", "u: absolute error"]
    assert len(panels) == 9
    error = panels[2].images[0].get_array()
    assert error.shape == (37, 27) and torch.allclose(torch.as_tensor(error), torch.ones(37, 27, dtype=torch.float64))


def test_figures_of_problems_with_more_coordinates(tmp_path: Path) -> None:
    problem = HeatMultiscale({"pde": 2, "boundary": 2, "initial": 2})
    exact = problem.reference()
    history = {"step": [1.0, 2.0], "mse": [1.0, 0.1], "pde": [0.5], "data": [0.4, 0.3]}
    save_figures(problem, exact, exact, history, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"solution.png", "training.png"}
