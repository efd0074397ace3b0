"""The multi-task benchmarks: data, metrics, networks, training by every method, resuming."""

import math
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer, seed_everything
from PIL import Image
from sklearn.metrics import f1_score
from torch import nn

from decathlon.errors import ConfigError, DataError
from decathlon.runner.catalog import CONFIGS
from decathlon.tasks.pinn.mixin import check_trainer
from decathlon.tasks.pinn.multitask.batches import Batches, Steps
from decathlon.tasks.pinn.multitask.celeba import CelebA, read_attributes, read_partition
from decathlon.tasks.pinn.multitask.digits_overlay import DigitsOverlay, make, overlay
from decathlon.tasks.pinn.multitask.labels import CELEBA_ATTRIBUTES, DIGIT_RULES, digit_attributes
from decathlon.tasks.pinn.multitask.metrics import f1_counts, f1_from_counts, f1_scores, mean_ranks
from decathlon.tasks.pinn.multitask.module import CelebAMultiTask, DigitsMultiTask
from decathlon.tasks.pinn.multitask.nets import CelebATrunk, OverlayTrunk

METHODS = sorted(path.stem for path in (CONFIGS / "methods/pinn").glob("*.yaml"))


def config(kind: str, name: str, seed: int = 0, **changes) -> dict:
    text = (CONFIGS / kind / "pinn" / f"{name}.yaml").read_text().replace("${seed}", str(seed))
    return {**yaml.safe_load(text), **changes}


def quiet(tmp_path: Path, **options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=-1,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        **{"enable_checkpointing": False, **options},
    )


def digits(method: str, seed: int, tmp_path: Path, dataset: str = "digits_overlay", steps: int = 600, **changes):
    seed_everything(seed, verbose=False)
    spec = config("datasets", dataset)
    spec |= {"steps": steps, "eval_every": min(100, steps)}
    module = DigitsMultiTask(config("methods", method, seed, **changes), spec, spec["lr"], spec["lr_end"], steps, seed)
    data = DigitsOverlay("", spec, seed)
    trainer = quiet(tmp_path, max_steps=steps)
    trainer.fit(module, data)
    assert trainer.global_step == steps == module.conflict_steps
    return trainer.test(module, data, verbose=False)[0], module


# Data


def test_splits_share_no_digit_and_are_fixed() -> None:
    splits = make(12)
    assert {name: len(images) for name, (images, _) in splits.items()} == {"train": 6000, "val": 1500, "test": 3000}
    assert all(torch.equal(a[0], b[0]) for a, b in zip(splits.values(), make(12).values()))
    # The first four columns are the left digit alone: its picture identifies it.
    left = {name: {row.numpy().tobytes() for row in images[:, :, :4]} for name, (images, _) in splits.items()}
    assert len(left["train"] & left["test"]) < 0.02 * len(left["test"])


def test_overlay_is_the_maximum_at_column_four() -> None:
    images = torch.rand(3, 8, 8)
    canvas = overlay(images, torch.tensor([[0, 2]]))[0]
    assert torch.equal(canvas[:, :4], images[0][:, :4])
    assert torch.equal(canvas[:, 4:8], torch.maximum(images[0][:, 4:], images[2][:, :4]))
    assert torch.equal(canvas[:, 8:], images[2][:, 4:])


def test_rules_give_labels_that_are_neither_constant_nor_equal() -> None:
    assert len(DIGIT_RULES) >= 32
    labels = make(len(DIGIT_RULES))["train"][1]
    share = labels.mean(dim=0)
    assert float(share.min()) > 0.03
    assert float(share.max()) < 0.97
    assert len({row.numpy().tobytes() for row in labels.T}) == len(DIGIT_RULES)
    left, right = torch.tensor([8, 1, 3]), torch.tensor([6, 1, 7])
    assert DIGIT_RULES["left_greater"](left, right).tolist() == [True, False, False]
    assert DIGIT_RULES["right_has_loop"](left, right).tolist() == [True, False, False]
    assert DIGIT_RULES["sum_ge_10"](left, right).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="from 1 to"):
        digit_attributes(99)


def test_batches_are_a_function_of_seed_and_step_and_cover_the_data() -> None:
    data = DigitsOverlay("", config("datasets", "digits_overlay"), seed=3)
    data.setup()
    images = torch.cat([data.train_batch(step)[0] for step in range(23)])
    assert len(np.unique(images.flatten(1).numpy(), axis=0)) > 5700  # some pairs were drawn twice
    assert torch.equal(data.train_batch(30)[0], data.train_batch(30)[0])
    assert not torch.equal(data.train_batch(0)[0], data.train_batch(23)[0])


# Networks and metrics


def test_the_celeba_network_has_the_published_size() -> None:
    assert sum(p.numel() for p in CelebATrunk().parameters()) == 5_176_640
    assert sum(p.numel() for p in nn.Linear(512, 40).parameters()) == 20_520
    small = CelebATrunk(width=4)
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, 32)
    assert OverlayTrunk(96, (32, 16))(torch.rand(2, 8, 12)).shape == (2, 16)


def test_f1_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(500, 6, generator=generator) < torch.tensor([0.5, 0.1, 0.9, 0.3, 0.0, 0.5])
    predicted = torch.rand(500, 6, generator=generator) < torch.tensor([0.5, 0.2, 0.8, 0.0, 0.0, 1.1])
    expected = [f1_score(target[:, i], predicted[:, i], zero_division=0) for i in range(6)]
    assert f1_scores(predicted, target).tolist() == pytest.approx(expected)
    parts = f1_counts(predicted[:200], target[:200]) + f1_counts(predicted[200:], target[200:])
    assert f1_from_counts(parts).tolist() == pytest.approx(expected)


def test_mean_ranks() -> None:
    scores = torch.rand(7, 40, generator=torch.Generator().manual_seed(0))
    scores[3] = scores[2]  # ties
    ranks = mean_ranks(scores)
    assert float(ranks.mean()) == pytest.approx((7 + 1) / 2)
    assert mean_ranks(torch.tensor([[3.0, 1.0], [2.0, 1.0]])).tolist() == [1.25, 1.75]


# Training


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method: str, tmp_path: Path) -> None:
    found, module = digits(method, 0, tmp_path, steps=4)
    assert 0 <= found["test/f1"] <= 1
    assert {"test/worst_f1", "test/f1_final", "test/f1_best", "test/f1/left_greater"} <= set(found)
    assert all(bool(p.isfinite().all()) for p in module.parameters())


@pytest.mark.parametrize("method", ["pcgrad", "cagrad"])
def test_the_celeba_figure_clips_the_norm_of_the_trunks_update(method: str) -> None:
    figure = yaml.safe_load((CONFIGS / "experiment/pinn/fig11.yaml").read_text())
    run = figure["hydra"]["sweeper"]["params"]["method"].split(",")
    assert f"{method}_clipped" in run and method not in run
    spec, plain = config("datasets", "digits_overlay"), config("methods", method)
    clipped = config("methods", f"{method}_clipped")
    assert {**clipped, "name": 0, "title": 0, "clip_norm": 0} == {**plain, "name": 0, "title": 0, "clip_norm": 0}
    norms = []
    for one in (plain, clipped):
        seed_everything(0, verbose=False)
        module = DigitsMultiTask(one, spec, 1e-3, 1e-3, 10, 0)
        module.scales *= 100
        data = DigitsOverlay("", spec, 0)
        data.setup()
        module.conflict_step(module.losses(*data.train_batch(0)))
        norms.append(torch.cat([p.grad.flatten() for p in module.trunk.parameters()]).norm())
    assert float(norms[0]) > 10 and float(norms[1]) == pytest.approx(1, rel=1e-4)


def test_unknown_methods_are_one_line() -> None:
    spec = config("datasets", "digits_overlay")
    for method in (
        {"class": "decathlon.nothing"},
        {"class": "torch.nn.ReLU"},
        {"name": "x"},
        config("methods", "cagrad", c=3),
        config("methods", "mconfig", updates_per_step=99),
    ):
        with pytest.raises(ConfigError):
            DigitsMultiTask(method, spec, 1e-3, 1e-3, 10, 0)


# The methods are close without scales, and far apart with them.


@pytest.mark.slow
def test_badly_scaled_losses_hurt_the_sum_and_not_config(tmp_path: Path) -> None:
    found = {
        name: digits(method, 0, tmp_path, **changes)[0]["test/f1"]
        for name, method, changes in [
            ("sum", "adam", {}),
            ("config", "config", {}),
            ("one", "mconfig", {}),
            ("four", "mconfig", {"updates_per_step": 4}),
        ]
    }
    assert found["config"] > found["sum"] + 0.05
    assert found["four"] > found["one"]


@pytest.mark.parametrize("method", ["config", "mconfig", "famo", "mpcgrad"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(method: str, tmp_path: Path) -> None:
    spec = config("datasets", "digits_overlay", eval_every=5, steps=20)

    def build() -> tuple[DigitsMultiTask, DigitsOverlay]:
        seed_everything(0, verbose=False)
        return DigitsMultiTask(config("methods", method), spec, 1e-3, 1e-3, 20, 0), DigitsOverlay("", spec, 0)

    whole, data = build()
    trainer = quiet(tmp_path, max_steps=20)
    trainer.fit(whole, data)
    first, data = build()
    stopped = quiet(tmp_path, max_steps=10, enable_checkpointing=True)
    stopped.fit(first, data)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    second, data = build()
    resumed = quiet(tmp_path, max_steps=20)
    resumed.fit(second, data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert second.conflict_steps == 20
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values()))
    assert whole.selection.state_dict() == second.selection.state_dict()


def test_cosines_of_the_combined_gradient_and_of_the_step(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    spec = config("datasets", "digits_overlay")
    for method in ("config", "mconfig", "adam"):
        module = DigitsMultiTask(config("methods", method), spec, 1e-3, 1e-3, 10, 0)
        data = DigitsOverlay("", spec, 0)
        data.setup()
        module.log_every = 1
        for step in range(13):
            found = module.conflict_step(module.losses(*data.train_batch(step)))
        raw = torch.stack([v for k, v in found.items() if k.startswith("cos_raw/")])
        steps = [k for k in found if k.startswith("cos_step/")]
        assert len(raw) == len(steps) == 12
        if method == "config":
            assert float(raw.min()) > 0
            assert float(raw.max() - raw.min()) < 1e-4


def test_a_run_that_diverges_is_a_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seed_everything(0, verbose=False)
    spec = config("datasets", "digits_overlay", eval_every=2, steps=6)
    for method in ("config", "mconfig", "adam"):
        module, data = DigitsMultiTask(config("methods", method), spec, 1e-3, 1e-3, 6, 0), DigitsOverlay("", spec, 0)
        module.scales[2] = math.nan
        trainer = quiet(tmp_path, max_steps=6)
        trainer.fit(module, data)
        found = trainer.test(module, data, verbose=False)[0]
        assert found["test/diverged"] == 1
        assert math.isnan(found["test/f1"])
        assert math.isnan(found["test/f1/left_greater"])
        assert "diverged and stops" in caplog.text
        assert all(bool(p.isfinite().all()) for p in module.parameters())


def test_an_unknown_schedule_is_refused() -> None:
    spec = config("datasets", "digits_overlay", schedule="cosin")
    with pytest.raises(ConfigError, match="choose cosine or constant"):
        DigitsMultiTask(config("methods", "config"), spec, 1e-3, 1e-3, 10, 0)


# CelebA from files in the official format


def write_celeba(root: Path, images: int = 30, zipped: bool = False) -> None:
    generator = np.random.default_rng(0)
    folder = root / "img_align_celeba"
    folder.mkdir(parents=True)
    names = [f"{k:06d}.jpg" for k in range(1, images + 1)]
    for name in names:
        Image.fromarray(generator.integers(0, 255, (218, 178, 3), dtype=np.uint8)).save(folder / name)
    signs = generator.choice(["1", "-1"], (images, 40))
    rows = [f"{name}  {' '.join(row)}" for name, row in zip(names, signs)]
    (root / "list_attr_celeba.txt").write_text("\n".join([str(images), " ".join(CELEBA_ATTRIBUTES), *rows]) + "\n")
    (root / "list_eval_partition.txt").write_text(
        "".join(f"{n} {0 if k < 20 else 1 + k % 2}\n" for k, n in enumerate(names))
    )
    if zipped:
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
            for name in names:
                archive.write(folder / name, f"img_align_celeba/{name}")
                (folder / name).unlink()
        folder.rmdir()


@pytest.mark.parametrize("zipped", [False, True])
def test_celeba_from_the_official_files(zipped: bool, tmp_path: Path) -> None:
    write_celeba(tmp_path / "celeba", zipped=zipped)
    spec = config("datasets", "celeba", image_size=16, width=4, batch_size=4, workers=0, steps=10)
    data = CelebA(tmp_path, spec, seed=1)
    data.prepare_data()
    data.setup()
    assert [len(data.indices[name]) for name in ("train", "val", "test")] == [20, 5, 5]
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 16, 16)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    _, table = read_attributes(tmp_path / "celeba/list_attr_celeba.txt")
    sampler = data.train_dataloader().sampler
    chosen = sorted(next(iter(sampler)))
    assert torch.equal(labels, torch.from_numpy(table[chosen]).float())
    first = list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert sorted(i for batch in first for i in batch) == sorted(i for batch in sampler for i in batch)
    for method in ("config", "mconfig")[:: 2 if zipped else 1]:
        seed_everything(0, verbose=False)
        module = CelebAMultiTask(config("methods", method), spec, 3e-4, 3e-4, 10, 0)
        trainer = quiet(tmp_path, max_steps=10)
        trainer.fit(module, data)
        found = trainer.test(module, data, verbose=False)[0]
        assert len([name for name in found if name.startswith("test/f1/")]) == 40


def test_missing_and_broken_celeba_files_are_named(tmp_path: Path) -> None:
    spec = config("datasets", "celeba", image_size=16)
    with pytest.raises(DataError, match=r"list_attr_celeba\.txt.*mmlab"):
        CelebA(tmp_path, spec).prepare_data()
    write_celeba(tmp_path)
    (tmp_path / "img_align_celeba/000007.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"000007.* is corrupt"):
        CelebA(tmp_path, spec).prepare_data()
    (tmp_path / "img_align_celeba/000007.jpg").unlink()
    with pytest.raises(DataError, match=r"000007.* is missing"):
        CelebA(tmp_path, spec).prepare_data()
    assert not list(tmp_path.glob("processed/*.npy"))
    lines = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()
    broken = tmp_path / "broken.txt"
    broken.write_text("\n".join([*lines[:5], lines[5].replace(" 1", " 7", 1), *lines[6:]]))
    with pytest.raises(DataError, match="line 6"):
        read_attributes(broken)
    broken.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="29 images"):
        read_attributes(broken)
    broken.write_text("000001.jpg 0\n")
    with pytest.raises(DataError, match="1 images have no split, the first is b"):
        read_partition(broken, ["000001.jpg", "b"])
    for images in (tmp_path / "img_align_celeba").glob("*"):
        images.unlink()
    (tmp_path / "img_align_celeba").rmdir()
    with pytest.raises(DataError, match=r"img_align_celeba\.zip"):
        CelebA(tmp_path, spec).prepare_data()


def test_processes_share_every_batch_and_evaluate_each_row_once() -> None:
    indices = np.arange(10, 33)
    for shuffle, batches in ((True, 4), (False, 5)):
        whole = Batches(indices, 5, seed=1, shuffle=shuffle)
        parts = [Batches(indices, 5, seed=1, shuffle=shuffle, rank=rank, world=2) for rank in range(2)]
        assert len(whole) == len(parts[0]) == batches
        for batch, left, right in zip(whole, *parts):
            assert sorted(left + right) == sorted(batch)
    assert [i for batch in whole for i in batch] == indices.tolist()
    assert list(Steps(3)) == [0, 1, 2]


def test_trainers_that_shard_or_scale_are_refused() -> None:
    class FSDPStrategy:
        pass

    for trainer in (
        SimpleNamespace(strategy=FSDPStrategy(), precision="32-true"),
        SimpleNamespace(strategy=object(), precision="16-mixed"),
    ):
        with pytest.raises(ConfigError, match="use"):
            check_trainer(trainer)
    check_trainer(SimpleNamespace(strategy=object(), precision="bf16-mixed"))
