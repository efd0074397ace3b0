"""The examples of docs/config-operators.md run as they are printed."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PAGE = Path(__file__).parents[3] / "docs/config-operators.md"


def setting() -> dict[str, Any]:
    """The names that the examples take as given."""
    torch.manual_seed(0)
    model = nn.Linear(3, 3)

    def loss(k: int) -> Any:
        return lambda model, x: (model(x)[:, k] - x[:, k]).square().mean()

    points = torch.randn(8, 3)
    whole = {name: lambda model, k=k: loss(k)(model, points) for k, name in enumerate(("pde", "boundary", "initial"))}
    return {
        "gradients": torch.randn(3, 50),
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "batches": [points, points * float("nan"), points],
        "batch": points,
        "parts": points.chunk(4),
        "data_loss": loss(0),
        "physics_loss": loss(1),
        "scaler": torch.amp.GradScaler("cpu"),
        **whole,
    }


def test_every_example_runs(capsys) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) >= 6
    names = setting()
    good = names["batches"][::2]
    for example in examples:
        names["optimizer"] = torch.optim.Adam(names["model"].parameters())
        names["batches"] = setting()["batches"] if "NotFiniteError as" in example else good
        exec(example, names)
    assert capsys.readouterr().out.count("left out: loss 0, 1 (counted from 0) is not finite") == 1
    losses: dict[str, Tensor] = names["losses"]
    assert float(losses["sum"]) < 0.2  # of 2 at the start, beside a loss that is 10,000 times larger
