"""The documentation's example of a PDE of one's own works as printed."""

import re
from pathlib import Path
from typing import Any

import torch

from decathlon.runner.catalog import CONFIGS
from decathlon.runner.compose import compose_config
from decathlon.runner.job import Job
from decathlon.tasks.pinn.module import PINN
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "pinn-own.md"


def test_the_documented_pde(tmp_path: Path, monkeypatch: Any) -> None:
    (block,) = re.findall(r"```python\n(# heat\.py.*?)```", PAGE.read_text(), flags=re.S)
    (tmp_path / "heat.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    problem = {"class": "heat.Heat", "points": {"pde": 40, "boundary": 20, "initial": 20}, "losses": 3}
    dataset = {"name": "heat", "problem": problem, "network": {"width": 16, "hidden": 2}, "cosines_every": 0}
    torch.manual_seed(0)
    module = PINN({"class": "decathlon.tasks.pinn.ConFIG"}, dataset, 1e-2, 1e-3, 150, seed=0)

    def error() -> float:
        points = module.problem.test_points()
        return module.problem.errors(module.predict(points), module.problem.reference())["mse"]

    before = error()
    for step in range(150):
        module.conflict_step(module.problem.losses(module.network, 0, step))
    assert list(module.problem.losses(module.network, 0, 0)) == ["pde", "boundary", "initial"]
    assert error() < 0.02 * before


def test_the_documented_conditions(tmp_path: Path, monkeypatch: Any) -> None:
    """Each loss vanishes on the solution, and the hard condition holds for any network."""
    (block,) = re.findall(r"```python\n(# plate\.py.*?)```", PAGE.read_text(), flags=re.S)
    (tmp_path / "plate.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    points = {"pde": 30, "top": 8, "right": 8, "bottom": 8, "balance": 8}
    spec = {"class": "plate.Plate", "points": points, "losses": 6}
    dataset = {"name": "plate", "problem": spec, "network": {"width": 8, "hidden": 2}}
    module = PINN({"class": "decathlon.tasks.pinn.ConFIG"}, dataset, 1e-2, 1e-3, 10)
    problem = module.problem

    class Exact(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.marker = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return problem.solution(x) + 0 * self.marker

    losses = problem.losses(Exact(), 0, 0)
    assert list(losses) == ["conservation", "flux", "top", "right", "bottom", "balance"]
    assert all(float(loss().detach()) < 1e-12 for loss in losses.values())
    x = torch.tensor([[0.0, 0.3], [0.0, 0.8]])
    assert torch.allclose(module.predict(x)[:, 0], 0.1 * x[:, 1])
    found = module.conflict_step(problem.losses(module.network, 0, 0))
    assert all(torch.isfinite(value) for value in found.values())


def test_a_dataset_file_of_ones_own(tmp_path: Path, monkeypatch: Any) -> None:
    """The copied file finds the shared base of the PDEs in the package."""
    folder = tmp_path / "datasets" / "pinn"
    folder.mkdir(parents=True)
    text = (CONFIGS / "datasets/pinn/burgers_small.yaml").read_text().replace("name: burgers_small", "name: heat")
    (folder / "heat.yaml").write_text(text)
    monkeypatch.setenv("DECATHLON_CONFIGS", str(tmp_path))
    job = Job.of(compose_config(["task=pinn", "dataset=heat", "losses=3"]))
    assert job.dataset == "heat" and job.config["dataset"]["problem"]["losses"] == 3
    assert job.config["module"]["_target_"] == "decathlon.tasks.pinn.module.PINN"


def test_the_documented_gauss_newton_step() -> None:
    (block,) = re.findall(r"```python\n(import torch\n[^`]*vector_to_parameters[^`]*)```", PAGE.read_text())
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(block, names)
    d = names["differentiate"](names["net"], names["x"], "xt", ("t", "xx"))
    after = (d["t"] - 0.1 * d["xx"] - torch.sin(names["x"][:, 0]))[0]
    assert after.square().mean() < 0.5 * names["residual"].square().mean()
