"""The Lightning module: one step per loss method, protocol, metrics, resume to the last bit, effects at small scale."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from decathlon.errors import ConfigError, DataError
from decathlon.runner.compose import compose_config
from decathlon.runner.job import Job
from decathlon.tasks.pinn.data import Collocation
from decathlon.tasks.pinn.module import PINN
from decathlon.tasks.pinn.schedule import make_schedule

METHODS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam", "class": "decathlon.tasks.pinn.LS"},
    "config": {"name": "config", "class": "decathlon.tasks.pinn.ConFIG"},
    "mconfig": {"name": "mconfig", "class": "decathlon.tasks.pinn.MConFIG"},
    "lra": {"name": "lra", "class": "decathlon.tasks.pinn.LRA", "beta": 0.9},
}


INVERSE: dict[str, Any] = {
    "problem": {
        "class": "decathlon.tasks.pinn.problems.BurgersInverse",
        "points": {"pde": 40, "data": 20},
        "measurements": {"count": 50, "noise": 0.01, "seed": 0},
        "guess": 0.05,
    }
}


def dataset(**changes: Any) -> dict[str, Any]:
    return {
        "name": "burgers",
        "problem": {
            "class": "decathlon.tasks.pinn.problems.Burgers",
            "points": {"pde": 40, "boundary": 10, "initial": 10},
            "losses": 2,
        },
        "network": {"width": 10, "hidden": 2},
        "evaluations": 3,
        "block": 2,
        "cosines_every": 4,
        "figures": False,
        **changes,
    }


def make(config: dict[str, Any], method: str = "config", steps: int = 24, lr: float = 3e-3) -> PINN:
    seed_everything(0, verbose=False)
    return PINN(METHODS[method], config, lr, lr / 10, steps, seed=0)


def fit(
    module: PINN, config: dict[str, Any], folder: Path, checkpoint: Path | None = None, **options: Any
) -> dict[str, float]:
    data = Collocation(folder / "data", config)
    settings: dict[str, Any] = {"max_epochs": int(config["evaluations"]), "logger": False, **options}
    trainer = Trainer(
        accelerator="cpu", devices=1, default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **settings,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / "end.ckpt")
    found = dict(trainer.callback_metrics)
    trainer.test(module, data, verbose=False)
    return {name: float(value) for name, value in (found | trainer.callback_metrics).items()}


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_and_resumed_is_bit_equal(method: str, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, taken up by a new module: same weights, same metrics."""
    config = dataset()
    whole = make(config, method)
    expected = fit(whole, config, tmp_path / "whole")
    half = make(config, method)
    keep = ModelCheckpoint(dirpath=tmp_path / "half", filename="at", every_n_train_steps=10, save_top_k=-1)
    fit(half, config, tmp_path / "half", callbacks=[keep], max_steps=14)
    assert half.conflict_steps == 14
    (checkpoint,) = (tmp_path / "half").glob("at*.ckpt")
    torch.load(checkpoint, weights_only=True)
    seed_everything(99, verbose=False)
    again = PINN(METHODS[method], config, 3e-3, 3e-4, 24, seed=0)
    found = fit(again, config, tmp_path / "again", checkpoint)
    assert again.conflict_steps == 24
    for ours, reference in zip(again.parameters(), whole.parameters()):
        assert torch.equal(ours, reference)
    timeless = {name: value for name, value in expected.items() if "seconds" not in name}
    assert {name: value for name, value in found.items() if "seconds" not in name} == timeless


def test_same_seed_same_numbers_and_block_does_not_matter(tmp_path: Path) -> None:
    runs = []
    for number, block in enumerate((1, 2, 5)):
        module = make(dataset(block=block))
        fit(module, dataset(block=block), tmp_path / str(number))
        assert module.conflict_steps == 24
        runs.append(torch.cat([p.flatten() for p in module.parameters()]))
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_momentum_method_evaluates_the_loss_whose_turn_it_is() -> None:
    module = make(dataset(cosines_every=0), "mconfig")
    called: list[str] = []
    for step in range(6):
        losses = module.problem.losses(module.network, 0, step)
        watched = {name: (lambda n=name, f=loss: (called.append(n), f())[1]) for name, loss in losses.items()}
        module.conflict_step(watched)
    assert sorted(called[:2]) == ["data", "pde"] and called[:2] * 3 == called


def test_time_per_step_covers_whole_turns_of_the_losses() -> None:
    assert make(dataset(), "mconfig")._timer.cycle == 2 and make(dataset(), "config")._timer.cycle == 1
    module = make(dataset(), "mconfig")
    for step in range(9):
        module.conflict_step(module.problem.losses(module.network, 0, step))
    assert module._timer.steps == 5 and module.seconds_per_step > 0  # not steps 0 and 1, nor 4 and 8 (cosines)


def test_momentum_steps_apply_to_momentum_methods_only() -> None:
    config = dataset(momentum_steps=2.0)
    assert make(config, "mconfig", 24).steps == 48 and make(config, "config", 24).steps == 24


def test_steps_need_not_divide(tmp_path: Path) -> None:
    config = dataset(evaluations=4, block=3)
    module = make(config, steps=25)
    metrics = fit(module, config, tmp_path)
    assert module.conflict_steps == 25 == metrics["test/steps"]
    assert module.history["step"] == [7.0, 14.0, 21.0, 25.0]


def test_metrics(tmp_path: Path) -> None:
    config = dataset(figures=True)
    module = make(config)
    metrics = fit(module, config, tmp_path)
    truth, x = module.problem.reference(), module.problem.test_points().float()
    with torch.no_grad():
        mse = float((module(x).double() - truth).square().mean())
    assert metrics["test/mse"] == pytest.approx(mse) and metrics["val/mse"] == pytest.approx(mse)
    assert metrics["test/log10_mse"] == pytest.approx(math.log10(mse)) and metrics["test/diverged"] == 0
    assert metrics["test/mse_best"] == pytest.approx(min(module.history["mse"]))
    totals = [sum(pair) for pair in zip(module.history["pde"], module.history["data"])]
    chosen = module.history["mse"][totals.index(min(totals))]
    assert metrics["test/mse_selected"] == pytest.approx(chosen)
    assert metrics["train/pde"] == pytest.approx(module.history["pde"][-1])
    for kind in ("cos_raw", "cos_step"):
        for loss in ("pde", "data"):
            assert -1 <= metrics[f"train/{kind}/{loss}"] <= 1
    assert metrics["train/cos_raw/pde"] == pytest.approx(metrics["train/cos_raw/data"], abs=1e-4)
    assert "test/mse_official" not in metrics
    for name in ("solution.png", "training.png"):
        assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.parametrize("method", METHODS)
def test_divergence_is_a_result(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 13 has an infinite loss; the error seen in the evaluation before it does not count either."""
    module = make(dataset(), method)
    real = module.problem.losses

    def losses(network: torch.nn.Module, seed: int, step: int, rank: int, world: int) -> dict[str, Any]:
        found = real(network, seed, step, rank, world)
        return {**found, "pde": lambda: found["pde"]() / (0.0 if step == 13 else 1.0)}

    monkeypatch.setattr(module.problem, "losses", losses)
    metrics = fit(module, dataset(), tmp_path)
    assert (metrics["test/diverged"], metrics["test/steps"]) == (1.0, 13.0)
    assert all(math.isnan(metrics[f"test/{name}"]) for name in ("mse", "mse_best", "mse_selected", "log10_mse"))


def test_official_reference_is_used_when_found(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "burgers_official.npz", u=np.zeros((100, 256), dtype=np.float32))
    module = make(dataset())
    metrics = fit(module, dataset(), tmp_path)
    with torch.no_grad():
        square = float(module(module.problem.test_points().float()).double().square().mean())
    assert metrics["test/mse_official"] == pytest.approx(square)
    assert metrics["test/mse_official_best"] <= metrics["test/mse_official"]


def test_slow_references_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Collocation(tmp_path, dataset())
    data.prepare_data()
    (kept,) = (tmp_path / "processed" / "pinn").glob("burgers*.npy")
    other = dataset(points_scale=0.5, problem={**dataset()["problem"], "losses": 3, "engine": "nested"})
    again = Collocation(tmp_path, other)
    with monkeypatch.context() as patch:
        patch.setattr(type(again.problem), "reference", lambda self: pytest.fail("computed again"))
        again.setup()
    assert torch.equal(again.test_set["fields"], data._reference())
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(DataError, match="is broken"):
        Collocation(tmp_path, dataset()).setup()


def test_another_problem_with_the_same_key_has_a_reference_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a subclass, nor an option, nor an edited file is answered from what was kept before."""
    Collocation(tmp_path, dataset()).prepare_data()
    source = (
        "from decathlon.tasks.pinn.problems import Burgers\n"
        "class Shifted(Burgers):\n"
        "    def __init__(self, points, losses=2, engine='auto', shift=0.0):\n"
        "        self.shift = shift\n"
        "        super().__init__(points, losses, engine)\n"
        "    def solution(self, x):\n"
        "        return super().solution(x) + self.shift + OFFSET\n"
    )
    found = []
    for number, (offset, shift) in enumerate([(0.0, 0.0), (0.0, 1.0), (2.0, 1.0)]):
        (tmp_path / f"edition{number}").mkdir()
        (tmp_path / f"edition{number}" / "shifted.py").write_text(source.replace("OFFSET", str(offset)))
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / f"edition{number}")
            sys.modules.pop("shifted", None)
            config = dataset(problem={**dataset()["problem"], "class": "shifted.Shifted", "shift": shift})
            data = Collocation(tmp_path, config)
            data.setup()
        found.append(float(data.test_set["fields"].mean()))
    assert found == pytest.approx([0.0, 1.0, 3.0], abs=1e-9)
    assert len(list((tmp_path / "processed" / "pinn").glob("burgers*.npy"))) == 4


@pytest.mark.parametrize("figures", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_figures_are_drawn_where_both_knobs_want_them(figures: bool, wanted: bool) -> None:
    module = PINN(METHODS["adam"], dataset(figures=wanted), 1e-3, 1e-4, 10, figures=figures)
    assert module.figures == (figures and wanted)


def test_figures_are_no_part_of_a_jobs_identity() -> None:
    jobs = [Job.of(compose_config(["task=pinn", f"figures={value}"])) for value in ("true", "false")]
    assert jobs[0].identity == jobs[1].identity
    assert [job.config["module"]["figures"] for job in jobs] == [True, False]


def test_points_scale_shrinks_a_protocol() -> None:
    module = make(dataset(points_scale=0.25))
    assert module.problem.points == {"pde": 10, "boundary": 2, "initial": 2}


def test_learning_rate_schedule() -> None:
    """0 at the first step, lr after the warm-up of min(100, 1 %), lr_end at the last."""
    rate = make_schedule({}, 1e-3, 1e-4, 30000)
    assert (rate(0), rate(100)) == (0.0, 1e-3)
    assert rate(30000) == pytest.approx(1e-4) and rate(15050) == pytest.approx(5.5e-4)
    module = make(dataset(), steps=200)
    used = []
    for step in range(3):
        module.conflict_step(module.problem.losses(module.network, 0, step))
        used.append(module._optimizer.param_groups[0]["lr"])
    assert used == [0.0, 1.5e-3, 3e-3]
    assert make_schedule({"schedule": "constant"}, 1e-4, 1e-5, 10)(7) == 1e-4


def test_unknown_coefficients_are_trained_logged_and_saved(tmp_path: Path) -> None:
    config = dataset(**INVERSE)
    module = make(config, "mconfig")
    metrics = fit(module, config, tmp_path)
    assert metrics["test/viscosity"] != pytest.approx(0.05, rel=1e-4)
    assert metrics["test/viscosity_error"] == pytest.approx(metrics["test/viscosity"] * 100 * math.pi - 1, rel=1e-4)
    weights = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    assert float(weights["problem.log_viscosity"].exp()) == pytest.approx(metrics["test/viscosity"])


@pytest.mark.parametrize("method", ["adam", "mconfig"])
def test_coefficients_have_a_learning_rate_of_their_own(method: str) -> None:
    """They move in proportion to it at the first step of Adam, and the network as without it."""
    moved = []
    for rate in (None, 3e-3, 6e-3):
        module = make(dataset(coefficient_lr=rate, schedule="constant", cosines_every=0, **INVERSE), method)
        start = float(module.problem.log_viscosity)
        for step in range(2):
            module.conflict_step(module.problem.losses(module.network, 0, step))
            if step == 0 or method == "mconfig":
                weights = module.network.head.weight.detach().clone()
        moved.append((float(module.problem.log_viscosity) - start, weights))
    assert moved[1][0] == pytest.approx(moved[0][0], rel=1e-3)
    assert moved[2][0] == pytest.approx(2 * moved[0][0], rel=0.05)
    assert torch.allclose(moved[0][1], moved[2][1], atol=1e-6)


def test_another_optimizer_by_the_config() -> None:
    method = {**METHODS["config"], "optimizer": {"class": "torch.optim.AdamW", "weight_decay": 0.1}}
    module = PINN(method, dataset(), 1e-3, 1e-4, 10)
    assert type(module._optimizer) is torch.optim.AdamW
    assert module._optimizer.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "must be at least 1"),
        ({"problem": {"class": "nowhere.Heat", "points": {}}}, "nowhere.Heat is no class"),
        ({"problem": {"points": {}}}, "names no class"),
        ({"problem": {"class": "decathlon.tasks.pinn.problems.Burgers"}}, "dataset=burgers needs the option points"),
        ({"problem": {"class": "decathlon.tasks.pinn.problems.Burgers", "points": {"pde": "x"}}}, "a whole number"),
        ({"problem": {"class": "decathlon.tasks.pinn.problems.Burgers", "points": 3}}, "points"),
        ({"network": {"wide": 3}}, "network has no option wide; choose width, hidden"),
        ({"network": {"width": 0}}, "needs at least one"),
        ({"coefficient_lr": -1.0, **INVERSE}, "coefficient_lr=-1.0 must not be negative"),
        ({"schedule": "step"}, "choose cosine or constant"),
        ({"problem": {"class": "torch.nn.Linear", "points": {}}}, "points"),
        ({"problem": {"class": "decathlon.tasks.pinn.problems.Burgers", "points": {}, "colour": 1}}, "colour"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(dataset(**changes))
