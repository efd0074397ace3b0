"""What a pruner is told, and that asking changes nothing."""

from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from decathlon.errors import ConfigError
from decathlon.pruning import Fixed, Forgetting, RankLoss, largest
from decathlon.pruning.callback import Pruning
from decathlon.pruning.untouched import untouched
from decathlon.tasks.molpeg import MolPeg
from tests.pruning.toy import Lines, Plain, Returning

METHODS: dict[str, dict[str, Any]] = {
    "full": {"class": "decathlon.pruning.Full"},
    "rankloss": {"class": "decathlon.pruning.RankLoss"},
    "molpeg": {"class": "decathlon.tasks.molpeg.MolPeg"},
    "molpeg_eval": {"class": "decathlon.tasks.molpeg.MolPeg", "score_mode": "eval"},
    "molpeg_rescored": {"class": "decathlon.tasks.molpeg.MolPeg", "rescore": "epoch"},
}


class Normalised(Plain):
    """With BatchNorm and dropout; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.asked = 0
        self.dtypes: set[torch.dtype] = set()

    def sample_losses(self, batch: Any) -> Tensor:
        self.asked += 1
        logits = self.net(batch[0]).squeeze(1)
        self.dtypes.add(logits.dtype)
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), batch[1], reduction="none")


class Both(Normalised):
    """Returns the losses that it offers too."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = self.sample_losses(batch)
        return {"loss": losses.mean(), "losses": losses.detach()}


def fit(module: Plain, method: str | None, prune: float = 0.0, **options: Any) -> tuple[Plain, Pruning | None]:
    pruning = None if method is None else Pruning({"name": method, **METHODS[method]}, prune=prune, seed=1)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=[pruning] if pruning else [], **options,
    )  # fmt: skip
    torch.manual_seed(5)
    trainer.fit(module, Lines())
    return module, pruning


def test_a_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    with untouched(module, "key", 1):
        first = module(torch.ones(6, 3))
        module[1].train()
        module(torch.randn(6, 3))
        assert not first.requires_grad
    with untouched(module, "key", 1):
        assert torch.equal(module(torch.ones(6, 3)), first)
    with pytest.raises(RuntimeError), untouched(module, evaluating=True):
        assert not module.training and not module[2].training
        raise RuntimeError
    assert module.training and not module[1].training and module[2].training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_pruning_nothing_is_training_without_pruning_bit_for_bit(method: str) -> None:
    """Dropout masks, BatchNorm statistics, weights: all as if nobody looked."""
    alone, _ = fit(Normalised(), None)
    watched, _ = fit(Normalised(), method)
    assert watched.trained == alone.trained
    for name, value in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


def test_losses_that_training_returns_cost_no_pass() -> None:
    silent, _ = fit(Both(), None)
    watched, pruning = fit(Both(), "rankloss")
    assert isinstance(silent, Both) and isinstance(watched, Both) and pruning is not None
    assert watched.asked == silent.asked + 1  # before the first batch nobody knows
    assert isinstance(pruning.pruner, RankLoss) and pruning.pruner.score.isfinite().all()


def test_scores_are_taken_in_the_precision_of_training() -> None:
    module, _ = fit(Normalised(), "molpeg", precision="bf16-mixed")
    assert isinstance(module, Normalised) and module.dtypes == {torch.bfloat16}


def test_scores_in_evaluation_mode_know_no_dropout() -> None:
    """With beta = 0 online and reference are the same model; only masks could tell them apart."""
    METHODS["same"] = {**METHODS["molpeg_eval"], "beta": 0.0}
    _, pruning = fit(Normalised(), "same")
    METHODS.pop("same")
    assert pruning is not None and isinstance(pruning.pruner, MolPeg) and (pruning.pruner.score == 0).all()


def test_what_a_method_needs_is_asked_for_at_the_start() -> None:
    for method in ("molpeg", "molpeg_rescored"):
        with pytest.raises(ConfigError, match="offer `sample_losses"):
            fit(Returning(), method, prune=0.5)


class Mean(Plain):
    """The loss of the batch in the place of those of its samples."""

    def sample_losses(self, batch: Any) -> Tensor:
        return super().sample_losses(batch).mean()


def test_one_loss_for_a_whole_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"8 samples need losses of shape \(8,\), one each; got shape \(\)"):
        fit(Mean(), "rankloss", prune=0.5)


class TestWhatIsNoBatch:
    """A pruner that refuses a batch has not changed."""

    WRONG: ClassVar[list[tuple[Tensor, Tensor, str]]] = [
        (torch.tensor([1, 2]), torch.tensor(1.0), "losses of shape"),
        (torch.tensor([1, 2]), torch.ones(2, 1), "losses of shape"),
        (torch.tensor([1, 2]), torch.ones(3), "losses of shape"),
        (torch.tensor([-1, 2]), torch.ones(2), "position -1 is none of a set of 10"),
        (torch.tensor([1, 10]), torch.ones(2), "position 10 is none of a set of 10"),
        (torch.tensor([1.0, 2.0]), torch.ones(2), "whole numbers"),
        (torch.tensor([True, False]), torch.ones(2), "whole numbers"),
        (torch.tensor([[1, 2]]), torch.ones(1, 2), "whole numbers"),
    ]

    @pytest.mark.parametrize(("index", "losses", "says"), WRONG)
    @pytest.mark.parametrize("kind", [RankLoss, MolPeg])
    def test_update(self, kind: Any, index: Tensor, losses: Tensor, says: str) -> None:
        pruner = kind(10, 0.5)
        with pytest.raises(ValueError, match=says):
            pruner.update(index, losses, losses)
        assert pruner.score.isinf().all() and not pruner.count.any()
        with pytest.raises(ValueError, match="reference losses of shape"):
            pruner.update(torch.tensor([1, 2]), torch.ones(2), torch.tensor(1.0))

    def test_subsets_and_scores(self) -> None:
        for wrong in ([-1, 2], [3, 3], [10], []):
            with pytest.raises(ValueError, match="position"):
                Fixed(10, torch.tensor(wrong, dtype=torch.int64))
        with pytest.raises(ValueError, match="as many weights"):
            Fixed(10, torch.tensor([1, 2]), torch.ones(1))
        assert largest(torch.tensor([1.0, 3.0, 2.0], dtype=torch.bfloat16), 2).tolist() == [1, 2]


def test_a_sample_that_is_drawn_twice_counts_twice() -> None:
    pruner = RankLoss(4, 0.5)
    pruner.update(torch.tensor([1, 1, 3]), torch.ones(3))
    assert pruner.count.tolist() == [0, 2, 0, 1]


def test_forgetting_takes_positions_only() -> None:
    from decathlon.pruning.scores import Forgetting as Counter

    with pytest.raises(ValueError, match="position -1"):
        Counter(3).update(torch.tensor([-1]), torch.ones(1, 1))
    assert Forgetting.wants_evidence
