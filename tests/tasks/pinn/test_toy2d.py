"""toy2d: the landscape, the batched descent against the library's optimizers, and Fig. 1 in short."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer
from torch import Tensor, nn

from decathlon.errors import ConfigError
from decathlon.runner.catalog import CONFIGS
from decathlon.tasks.pinn import Backward, ConFIG, MConFIG
from decathlon.tasks.pinn.schedule import constant
from decathlon.tasks.pinn.toy2d import STARTS, Descent, Toy2d, Toy2dData, losses_and_gradients


def method(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"methods/pinn/{name}.yaml").read_text().replace("${seed}", "0"))


def landscape(point: Tensor, scale: float = 0.1) -> list[Tensor]:
    """The two losses, written with torch."""
    x, y = point
    zero, floor = torch.zeros_like(y), torch.full_like(y, 5e-6)
    upper, lower = torch.maximum(torch.tanh(y / 2), zero), torch.maximum(torch.tanh(-y / 2), zero)
    first = torch.log(torch.maximum((0.5 * (-x - 7) - torch.tanh(-y)).abs(), floor)) + 6
    second = torch.log(torch.maximum((0.5 * (3 - x) + torch.tanh(-y) + 2).abs(), floor)) + 6
    bowl = [((c * 7 - x) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20 for c in (1, -1)]
    return [scale * (upper * first + lower * bowl[0]), upper * second + lower * bowl[1]]


def test_losses_and_gradients_equal_autograd() -> None:
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.uniform(-10, 10, (200, 2)), np.array(STARTS)])
    losses, gradients = losses_and_gradients(points)
    for point, loss, gradient in zip(points, losses, gradients):
        leaf = torch.tensor(point, requires_grad=True)
        values = landscape(leaf)
        expected = torch.stack([torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in values])
        assert np.allclose(loss, [v.item() for v in values], atol=1e-10)
        assert np.allclose(gradient, expected.numpy(), atol=1e-8)


def test_batched_descent_equals_the_optimizers_of_the_library() -> None:
    for name in ("config", "mconfig", "adam"):
        batched = Descent(method(name))
        batched.run(150, constant(1e-2))
        for k in (0, 2):
            theta = nn.Parameter(torch.tensor(STARTS[k], dtype=torch.float64))
            if name == "mconfig":
                optimizer: torch.optim.Optimizer = MConFIG([theta], lr=1e-2, num_losses=2)
            else:
                optimizer = torch.optim.Adam([theta], lr=1e-2)
            backward = Backward([theta], ConFIG())
            for _ in range(150):
                if name == "mconfig":
                    optimizer.step(landscape(theta))  # type: ignore[arg-type]
                    continue
                if name == "config":
                    backward(landscape(theta))
                else:
                    optimizer.zero_grad()
                    sum(landscape(theta)).backward()  # type: ignore[union-attr]
                optimizer.step()
            # The landscape is nearly singular: rounding grows along a trajectory.
            assert np.allclose(batched.state["points"][k], theta.detach().numpy(), atol=1e-4), (name, k)


PUBLISHED = {name: (1e-3, 60_000 if name == "mconfig" else 50_000) for name in ("adam", "config", "mconfig")}
# Larger steps, and no more of them than it takes; at 1e-2 Adam gets through too.
SHORT = {"adam": (5e-3, 8_000), "config": (1e-2, 4_500), "mconfig": (1e-2, 6_500)}


@pytest.mark.parametrize("budget", [SHORT, pytest.param(PUBLISHED, marks=pytest.mark.slow)], ids=["short", "published"])
def test_config_reaches_the_pareto_side_from_every_start_and_adam_does_not(budget: dict) -> None:
    """Fig. 1 of the paper: the side y < 0."""
    ends = {}
    for name, (lr, steps) in budget.items():
        descent = Descent(method(name))
        descent.run(steps, constant(lr))
        ends[name] = descent.state["points"]
    assert (ends["config"][:, 1] < 0).all()
    assert (ends["mconfig"][:, 1] < 0).all()
    assert (ends["adam"][[0, 1, 3, 4], 1] < 0).all()
    assert ends["adam"][2, 1] > (3 if budget is PUBLISHED else 1)  # stuck on the wall


def run(name: str, tmp_path: Path, blocks: int, ckpt: Path | None = None) -> tuple[Toy2d, Trainer]:
    spec = yaml.safe_load((CONFIGS / "datasets/pinn/toy2d.yaml").read_text())
    spec |= {"inner_steps": 20, "momentum_inner_steps": 21, "steps": blocks}
    module = Toy2d(method(name), spec, 1e-2, 1e-2, blocks)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=blocks,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, Toy2dData("", spec), ckpt_path=ckpt, weights_only=True if ckpt else None)
    return module, trainer


@pytest.mark.parametrize("name", ["adam", "mconfig", "pcgrad"])
def test_module_resumes_and_writes_its_figure(name: str, tmp_path: Path) -> None:
    whole, trainer = run(name, tmp_path, 8)
    whole.figures = name == "adam"
    found = trainer.test(whole, Toy2dData("", {"steps": 1}), verbose=False)[0]
    assert 0 <= found["test/reached"] <= 5
    assert (tmp_path / "trajectories.png").is_file() == whole.figures
    _, stopped = run(name, tmp_path, 3)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = run(name, tmp_path, 8, tmp_path / "half.ckpt")
    assert np.array_equal(whole.descent.state["points"], again.descent.state["points"])
    assert whole.path == again.path


def test_methods_that_cannot_run_are_one_line() -> None:
    for bad in (
        method("lra"),
        method("graddrop"),
        method("config_lra"),
        {"class": "nowhere.Nothing"},
        {**method("mconfig"), "updates_per_step": 2},
        {**method("pcgrad"), "clip_norm": 1.0},
    ):
        with pytest.raises(ConfigError):
            Descent(bad)
