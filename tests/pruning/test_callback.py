"""The general part: pruning switched on in tasks that know nothing of molecules."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from decathlon.errors import ConfigError
from decathlon.pruning import SoftRandom
from decathlon.pruning.callback import Pruning
from decathlon.pruning.method import make_pruner
from decathlon.runner.exact import RandomState
from decathlon.tasks.molpeg import MolPeg
from tests.pruning.toy import Lines, Plain, Returning

METHODS = {
    "molpeg": {"class": "decathlon.tasks.molpeg.MolPeg", "beta": 0.9},
    "molpeg_rescored": {"class": "decathlon.tasks.molpeg.MolPeg", "rescore": "epoch", "score_mode": "eval"},
    "molpeg_copy": {"class": "decathlon.tasks.molpeg.MolPeg", "beta": 0.0},
    "rankloss": {"class": "decathlon.pruning.RankLoss"},
    "random": {"class": "decathlon.pruning.SoftRandom"},
    "infobatch": {"class": "decathlon.pruning.InfoBatch"},
    "infobatch_annealed": {"class": "decathlon.pruning.InfoBatch", "anneal": 0.6, "epochs": 6},
    "hard_random": {"class": "decathlon.pruning.HardRandom"},
    "entropy": {"class": "decathlon.pruning.Entropy", "scoring": {"epochs": 2}},
    "craig": {"class": "decathlon.pruning.Craig"},
    "full": {"class": "decathlon.pruning.Full"},
}


class Stop(pl.Callback):
    """Ends training after an epoch, as a killed process does: nothing later is saved."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.after


def fit(
    method: str,
    folder: Path,
    module: Plain | None = None,
    epochs: int = 6,
    stop: int | None = None,
    resume: Path | None = None,
    save: dict[str, Any] | None = None,
    workers: int = 0,
    prune: float = 0.6,
) -> tuple[Plain, Pruning, pl.Trainer]:
    module, data = module or Plain(), Lines(workers=workers)
    pruning = Pruning({"name": method, **METHODS[method]}, prune=prune, seed=1)
    callbacks: list[pl.Callback] = [RandomState(), pruning]
    if save is not None:
        callbacks.append(ModelCheckpoint(folder, filename="saved", enable_version_counter=False, **save))
    if stop is not None:
        callbacks.append(Stop(stop))
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=save is not None,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=callbacks,
    )  # fmt: skip
    torch.manual_seed(5)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module, pruning, trainer


@cache
def uninterrupted(method: str) -> tuple[Plain, Pruning, pl.Trainer]:
    """Six epochs of a method, shared by the tests that only look at them."""
    return fit(method, Path())


@pytest.mark.parametrize("method", METHODS)
def test_every_epoch_trains_on_k_distinct_samples(method: str) -> None:
    module, pruning, trainer = uninterrupted(method)
    sizes = [len(module.trained[epoch]) for epoch in range(6)]
    expected = {"full": [60] * 6, "infobatch_annealed": [24] * 4 + [60] * 2}.get(method, [24] * 6)
    assert sizes == expected
    assert all(len(set(epoch)) == len(epoch) for epoch in module.trained.values())
    assert pruning.pruner is not None and int(pruning.pruner.count.sum()) == sum(sizes)
    assert trainer.callback_metrics["train/samples"] == sum(sizes)
    assert trainer.global_step == sum(-(-size // 8) for size in sizes)


def test_static_methods_keep_one_subset_and_dynamic_ones_see_everything() -> None:
    module, _, trainer = uninterrupted("entropy")
    assert len({frozenset(epoch) for epoch in module.trained.values()}) == 1
    assert trainer.callback_metrics["train/overlap"] == 1
    module, _, trainer = uninterrupted("molpeg")
    assert len(set().union(*(module.trained[epoch] for epoch in range(3)))) == 60  # ceil(1 / 0.4) epochs
    assert trainer.callback_metrics["train/coverage"] == 1
    assert trainer.callback_metrics["train/reference_lag"] == pytest.approx(9)


@pytest.mark.parametrize("method", ["molpeg", "molpeg_rescored", "rankloss", "random", "infobatch_annealed", "entropy"])
@pytest.mark.parametrize("when", ["validation", "epoch", "last step"])
def test_resumed_training_selects_what_uninterrupted_training_selects(method: str, when: str, tmp_path: Path) -> None:
    save: dict[str, Any] = {
        "validation": {"save_on_train_epoch_end": False},
        "epoch": {"save_on_train_epoch_end": True},
        "last step": {"every_n_train_steps": 3 if method != "infobatch_annealed" else 9},
    }[when]
    whole, _, _ = uninterrupted(method)
    fit(method, tmp_path / "part", stop=3, save=save)
    state = torch.load(tmp_path / "part/saved.ckpt", weights_only=True)
    assert state["global_step"] == 9
    resumed, _, trainer = fit(method, tmp_path / "rest", resume=tmp_path / "part/saved.ckpt")
    assert resumed.trained == {epoch: whole.trained[epoch] for epoch in (3, 4, 5)}  # in this order
    assert trainer.current_epoch == 6
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_a_loader_that_reads_ahead_gets_the_right_epochs(tmp_path: Path) -> None:
    """Worker processes read as soon as an iterator exists, which is before Lightning's epoch starts."""
    alone, _, _ = uninterrupted("rankloss")
    ahead, _, _ = fit("rankloss", tmp_path, workers=1)
    assert ahead.trained == alone.trained
    fit("rankloss", tmp_path, stop=3, save={"save_on_train_epoch_end": True}, workers=1)
    resumed, _, _ = fit("rankloss", tmp_path, resume=tmp_path / "saved.ckpt", workers=1)
    assert resumed.trained == {epoch: alone.trained[epoch] for epoch in (3, 4, 5)}


def test_losses_may_come_from_the_training_step(tmp_path: Path) -> None:
    module, pruning, _ = fit("rankloss", tmp_path, Returning())
    assert pruning.pruner is not None
    assert torch.isfinite(pruning.pruner.score).sum() == len(set().union(*module.trained.values()))


def test_infobatch_weights_reach_the_module(tmp_path: Path) -> None:
    module, _, _ = fit("infobatch", tmp_path, epochs=8, prune=0.3)
    weights = torch.cat(module.weights)
    assert (weights > 1).any() and (weights == 1).any()


def test_a_module_that_cannot_weight_is_refused(tmp_path: Path) -> None:
    class Deaf(Returning):
        def __init__(self) -> None:
            super().__init__()
            del self.sample_weights

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = Plain.sample_losses(self, batch)
            return {"loss": losses.mean(), "losses": losses.detach()}

    with pytest.raises(ConfigError, match="takes no `sample_weights`"):
        fit("craig", tmp_path, Deaf())


def test_the_reference_kept_for_a_plain_module_is_its_average(tmp_path: Path) -> None:
    """With beta = 0 the reference is the module of the step before: losses differ by dropout only, here by nothing."""
    _, pruning, _ = fit("molpeg_copy", tmp_path, Plain(dropout=0.0))
    assert isinstance(pruning.pruner, MolPeg)
    assert torch.equal(pruning.pruner.score, torch.zeros(60))


@pytest.mark.parametrize("prune", [1.2, 1.0, -0.1, "abc", None, True])
def test_a_bad_share_is_refused_by_the_constructor(prune: Any) -> None:
    with pytest.raises(ValueError, match="prune="):
        Pruning(METHODS["rankloss"], prune=prune)


@pytest.mark.parametrize(
    ("method", "option", "says"),
    [
        ("molpeg", {"beta": 2}, "beta=2"),
        ("molpeg", {"betta": 0.5}, "method=MolPeg has no option betta; choose beta, selection"),
        ("craig", {"chunks": 10}, "method=Craig has no option chunks; choose chunk"),  # before any model is trained
        ("craig", {"chunk": 0}, "chunk=0 is out of range; give a whole number from 2"),
        ("craig", {"chunk": "many"}, "chunk='many' is out of range"),
    ],
)
def test_bad_options_are_refused_by_the_constructor(method: str, option: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=says) as caught:
        Pruning({**METHODS[method], **option})
    assert "\n" not in str(caught.value)


def test_make_pruner_gives_each_seed_its_own_stream() -> None:
    spec = {"class": "decathlon.pruning.SoftRandom"}
    picks = [make_pruner(spec, 100, 0.5, seed).select()[0] for seed in (0, 1, 0)]
    assert isinstance(make_pruner(spec, 100, 0.5), SoftRandom)
    assert torch.equal(picks[0], picks[2]) and not torch.equal(picks[0], picks[1])


def test_an_average_of_sharded_parameters_is_refused() -> None:
    class FSDPStrategy:
        pass

    trainer = cast(pl.Trainer, SimpleNamespace(strategy=FSDPStrategy()))
    with pytest.raises(ConfigError, match=r"MolPeg averages whole parameters, which FSDPStrategy splits .*use ddp"):
        Pruning(METHODS["molpeg"]).setup(trainer, Plain(), "fit")
    Pruning(METHODS["rankloss"]).setup(trainer, Plain(), "fit")
    Pruning(METHODS["molpeg"]).setup(trainer, Plain(), "test")
