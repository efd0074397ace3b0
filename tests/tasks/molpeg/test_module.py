"""Fine-tuning through Lightning: the losses, the metrics, resuming, and that pruning nothing changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import average_precision_score, mean_squared_error, r2_score, roc_auc_score
from torch import nn
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from decathlon.errors import ConfigError
from decathlon.pruning import EpochSampler, split_batches
from decathlon.tasks.molpeg import MolPeg
from decathlon.tasks.molpeg.losses import label_losses, sample_losses
from decathlon.tasks.molpeg.metrics import classification_metrics, over_tasks, regression_metrics
from decathlon.tasks.molpeg.module import FineTune
from tests.tasks.molpeg.toy import MODEL, MOLPEG, Bits, make

FULL: dict[str, Any] = {"name": "full", "class": "decathlon.pruning.Full"}
EL2N: dict[str, Any] = {"name": "el2n", "class": "decathlon.pruning.EL2N"}


def test_losses_leave_unknown_labels_out() -> None:
    logits = torch.randn(4, 3)
    labels = torch.tensor([[1.0, 0.0, 1.0], [torch.nan, 1.0, 0.0], [torch.nan] * 3, [0.0, torch.nan, torch.nan]])
    total, known = label_losses(logits, labels)
    assert known.tolist() == [3, 2, 0, 1]
    for i in range(4):
        parts = [nn.functional.binary_cross_entropy_with_logits(logits[i, t], labels[i, t])
                 for t in range(3) if not torch.isnan(labels[i, t])]  # fmt: skip
        assert total[i].item() == pytest.approx(float(sum(parts)), abs=1e-6)
    assert torch.allclose(sample_losses(total, known, 3), total / 3)
    assert sample_losses(total, known, 3, "known")[3].item() == pytest.approx(total[3].item())
    assert sample_losses(total, known, 3, "known")[2] == 0
    absolute, _ = label_losses(logits, labels, regression=True)
    assert absolute[0].item() == pytest.approx((logits[0] - labels[0]).abs().sum().item())


def test_metrics_equal_scikit_learn_and_a_brute_force_count() -> None:
    """With masks, and with tasks of one class left out."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 6, generator=draw)
    logits[:, 2] = logits[:, 2].round()  # ties
    labels = (torch.rand(400, 6, generator=draw) < 0.2).float()
    labels[torch.rand(400, 6, generator=draw) < 0.5] = torch.nan
    labels[:, 4] = torch.where(torch.isnan(labels[:, 4]), torch.nan, 0.0)  # one class only: skipped
    labels[:, 5] = torch.nan  # nothing known: skipped
    found = {name: over_tasks(values) for name, values in classification_metrics(logits, labels).items()}
    auc, precision, pairs = [], [], []
    for t in range(4):
        known = ~torch.isnan(labels[:, t])
        y, s = labels[known, t].numpy(), logits[known, t].double().numpy()
        auc.append(roc_auc_score(y, s))
        precision.append(average_precision_score(y, s))
        gap = s[y == 1][:, None] - s[y == 0][None]
        pairs.append(((gap > 0) + 0.5 * (gap == 0)).mean())
        assert binary_auroc(torch.tensor(s).sigmoid(), torch.tensor(y).int()).item() == pytest.approx(auc[-1], abs=1e-6)
        other = binary_average_precision(torch.tensor(s).sigmoid(), torch.tensor(y).int())
        assert other.item() == pytest.approx(precision[-1], abs=1e-6)
    assert abs(found["roc_auc"] - np.mean(auc)) < 1e-9 and abs(found["roc_auc"] - np.mean(pairs)) < 1e-9
    assert abs(found["average_precision"] - np.mean(precision)) < 1e-9
    assert np.isnan(over_tasks(classification_metrics(logits[:, 4:], labels[:, 4:])["roc_auc"]))
    values = torch.tensor([[1.0, 5.0], [2.0, torch.nan]])
    errors = regression_metrics(torch.zeros(2, 2), values)
    assert errors["mae"] == [1.5, 5.0] and over_tasks(errors["mae"]) == pytest.approx((1.5 + 5) / 2)
    assert errors["rmse"] == pytest.approx([2.5**0.5, 5.0]) and np.isnan(errors["r2"][1])


def test_regression_metrics_equal_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(1)
    truth = torch.randn(200, 2, generator=draw)
    said = truth + 0.3 * torch.randn(200, 2, generator=draw)
    truth[:60, 1] = torch.nan
    found = regression_metrics(said, truth)
    for task in range(2):
        known = ~truth[:, task].isnan()
        y, z = truth[known, task].double().numpy(), said[known, task].double().numpy()
        assert found["r2"][task] == pytest.approx(r2_score(y, z))
        assert found["rmse"][task] == pytest.approx(mean_squared_error(y, z) ** 0.5)


def test_pruning_nothing_is_plain_fine_tuning(tmp_path: Path) -> None:
    """MolPeg at prune = 0, the whole dataset, and a loop without any of this agree."""
    trainer, module, data, _, record = make(tmp_path, {**MOLPEG, "score_mode": "train"}, prune=0.0, dropout=0.0)
    trainer.fit(module, data)
    whole, other, data, _, again = make(tmp_path, FULL, dropout=0.0)
    whole.fit(other, data)
    plain = FineTune(FULL, MODEL, dropout=0.0)
    plain.trainer = trainer
    plain.setup("fit")
    optimizer, sampler, losses = torch.optim.Adam(plain.parameters(), 0.01), EpochSampler(120, 0), []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        for rows in split_batches(sampler.order(), 16):
            loss = nn.functional.binary_cross_entropy_with_logits(plain(data.batch("train", rows)), data.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert max(abs(a - b) for a, b in zip(record.losses, losses, strict=True)) < 1e-6
    assert max(abs(a - b) for a, b in zip(again.losses, losses, strict=True)) < 1e-6
    assert trainer.callback_metrics["train/samples"] == 6 * 120


@pytest.mark.parametrize("options", [{}, {"score_mode": "eval"}, {"rescore": "epoch"}, {"ema_head": True}])
def test_pruning_nothing_is_the_whole_dataset_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    """With dropout: the reference draws masks of its own and moves no statistics of the online model."""
    ends = []
    for method in (FULL, {**MOLPEG, **options}):
        trainer, module, data, _, record = make(tmp_path, method, prune=0.0, dropout=0.3, epochs=4)
        trainer.fit(module, data)
        assert module.online is not None
        ends.append((record.losses, module.online.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(value, ends[1][1][name]) for name, value in ends[0][1].items())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("method", [{**MOLPEG, "rescore": "epoch"}, {**EL2N, "scoring": {"epochs": 1}}])
def test_other_precisions(precision: Any, method: dict[str, Any], tmp_path: Path) -> None:
    trainer, module, data, _, _ = make(tmp_path, method, epochs=2, precision=precision)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert 0.5 < trainer.callback_metrics["test/roc_auc"] <= 1


def test_a_precision_that_would_round_the_targets_is_refused(tmp_path: Path) -> None:
    trainer, module, data, _, _ = make(
        tmp_path, metric="mae", data=Bits(tmp_path, regression=True), precision="bf16-true"
    )
    with pytest.raises(ConfigError, match="precision=bf16-true rounds the labels of a regression"):
        trainer.fit(module, data)


@pytest.mark.parametrize("ema_head", [False, True])
def test_scores_are_the_losses_of_the_saved_weights(ema_head: bool, tmp_path: Path) -> None:
    """After the step before a batch is scored, its scores can be recomputed from the weights."""
    method = {**MOLPEG, "score_mode": "eval", "beta": 0.8, "ema_head": ema_head}
    trainer, module, data, pruning, _ = make(tmp_path, method)
    expected: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = module.training_step

    def spy(batch: Any, batch_idx: int) -> Any:
        assert module.online is not None and module.reference is not None
        module.eval()
        with torch.no_grad():
            online, output = module.online(batch), module.reference(batch)
            reference = output if ema_head else module.online.head(output)
            losses = [nn.functional.binary_cross_entropy_with_logits(z, batch.y, reduction="none").squeeze(1)
                      for z in (online, reference)]  # fmt: skip
        module.train()
        expected.append((batch.index, (losses[0] - losses[1]).abs()))
        return step(batch, batch_idx)

    module.training_step = spy  # type: ignore[method-assign]
    trainer.fit(module, data)
    assert isinstance(pruning.pruner, MolPeg)
    seen: dict[int, float] = {}
    for index, score in expected:
        seen.update(zip(index.tolist(), score.tolist(), strict=True))
    assert max(abs(pruning.pruner.score[i].item() - s) for i, s in seen.items()) < 1e-6
    assert max(seen.values()) > 1e-4  # the reference lags


@pytest.mark.parametrize("options", [{}, {"score_mode": "eval"}, {"ema_head": True}, {"rescore": "epoch"}])
def test_resumed_training_is_uninterrupted_training(options: dict[str, Any], tmp_path: Path) -> None:
    """Kept sets, order, losses and metrics after epoch 3 are the same."""
    method = {**MOLPEG, "beta": 0.9, **options}
    trainer, module, data, _, whole = make(tmp_path, method, epochs=7)
    trainer.fit(module, data)
    save = ModelCheckpoint(tmp_path, "last", save_top_k=-1, save_on_train_epoch_end=True, enable_version_counter=False)
    trainer, part, data, _, _ = make(tmp_path, method, epochs=3, callbacks=[save])
    trainer.fit(part, data)
    torch.manual_seed(123)
    trainer, rest, data, _, record = make(tmp_path, method, epochs=7)
    trainer.fit(rest, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert record.trained == {epoch: whole.trained[epoch] for epoch in (3, 4, 5, 6)}
    assert record.losses == whole.losses[-len(record.losses) :]
    assert all(torch.equal(a, b) for a, b in zip(rest.state_dict().values(), module.state_dict().values(), strict=True))


def test_training_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    trainer, module, data, _, whole = make(tmp_path, {**MOLPEG, "beta": 0.9}, epochs=5)
    trainer.fit(module, data)
    save = ModelCheckpoint(tmp_path, "mid", every_n_train_steps=8, enable_version_counter=False)
    trainer, part, data, _, _ = make(tmp_path, {**MOLPEG, "beta": 0.9}, epochs=3, callbacks=[save])
    trainer.fit(part, data)  # saved after step 8 of 9, before the last batch of epoch 2
    trainer, rest, data, _, record = make(tmp_path, {**MOLPEG, "beta": 0.9}, epochs=5)
    trainer.fit(rest, data, ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
    assert record.trained == {**{epoch: whole.trained[epoch] for epoch in (3, 4)}, 2: whole.trained[2][32:]}
    assert record.losses == whole.losses[8:]
    assert trainer.callback_metrics["train/samples"] == 5 * 48


def test_logged_metrics(tmp_path: Path) -> None:
    trainer, module, data, _, record = make(tmp_path, {**MOLPEG, "beta": 0.75}, epochs=5)
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    last = torch.tensor(record.trained[4])
    assert logged["train/kept"] == len(last) == 48
    assert logged["train/kept_positive"] == pytest.approx(data.y[last].mean().item())
    before = set(record.trained[3])
    assert logged["train/overlap"] == pytest.approx(sum(i in before for i in last.tolist()) / 48)
    assert logged["train/coverage"] == 1 and logged["train/samples"] == 5 * 48 and logged["train/steps"] == 15
    assert logged["train/reference_lag"] == pytest.approx(3) and logged["train/reference_seconds"] > 0
    assert logged["train/epoch_seconds"] > 0 and logged["val/score"] == logged["val/roc_auc"]
    tests = [module.test_by_epoch[epoch]["roc_auc"] for epoch in (2, 3, 4)]
    assert logged["test/roc_auc_last3"] == pytest.approx(np.mean(tests)) and len(module.test_by_epoch) == 3
    trainer.test(module, data, verbose=False)
    assert trainer.callback_metrics["test/roc_auc"].item() == pytest.approx(tests[-1])
    assert "test/average_precision" in trainer.callback_metrics


def test_regression_is_trained_on_standardised_targets_and_measured_in_their_unit(tmp_path: Path) -> None:
    data = Bits(tmp_path, tasks=2, missing=0.1, regression=True)
    trainer, module, data, _, _ = make(tmp_path, metric="mae", epochs=30, prune=0.2, data=data, dropout=0.0)
    trainer.fit(module, data)
    values = trainer.callback_metrics
    assert values["val/score"] == -values["val/mae"] and 0 < values["val/mae"] < 0.8 * float(data.target_std.mean())
    with pytest.raises(ValueError, match="metric=roc_auc does not fit a regression"):
        trainer, module, data, _, _ = make(tmp_path, data=data)
        trainer.fit(module, data)


def test_the_reference_may_start_at_random(tmp_path: Path) -> None:
    for init in ("pretrained", "random"):
        trainer, module, data, _, _ = make(tmp_path, {**MOLPEG, "reference_init": init}, epochs=0)
        module.trainer = trainer
        trainer.datamodule = data  # type: ignore[attr-defined]
        module.setup("fit")
        assert module.online is not None and module.reference is not None
        pairs = zip(module.online.encoder.parameters(), module.reference.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == (init == "pretrained")


def test_weights_of_the_run_do_not_depend_on_the_method_or_on_numbers_drawn_before(tmp_path: Path) -> None:
    """Methods are compared at equal seeds: same start, same dropout masks."""
    starts = []
    for method in (MOLPEG, FULL, {"name": "random", "class": "decathlon.pruning.SoftRandom"}):
        torch.rand(len(starts) + 1)
        trainer, module, data, _, _ = make(tmp_path, method, epochs=1, lr=1e-9)
        trainer.fit(module, data)
        assert module.online is not None
        starts.append([p.detach().clone() for p in module.online.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for other in starts[1:] for a, b in zip(starts[0], other, strict=True))


@pytest.mark.parametrize("prune", [1.2, -1, "abc", None])
def test_a_bad_share_is_one_line_from_the_constructor(prune: Any) -> None:
    with pytest.raises(ValueError, match="prune=") as error:
        FineTune(MOLPEG, "fp_mlp", prune=prune)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"metric": "auc"}, "metric=auc"),
        ({"schedule": "step"}, "schedule=step"),
        ({"lr": 0}, "lr=0"),
        ({"lr": "x"}, "lr="),
    ],
)
def test_other_bad_options(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        FineTune(MOLPEG, "fp_mlp", **options)
