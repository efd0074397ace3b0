"""The documentation's example of a PDE of one's own works as printed."""

import re
from pathlib import Path
from typing import Any

import torch

from decathlon.tasks.pinn.module import PINN
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "pinn.md"


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
