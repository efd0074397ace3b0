"""An epoch trains on what was selected for it, or the user hears of it in one line."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from decathlon.errors import ConfigError
from decathlon.pruning import EpochSampler
from decathlon.pruning.callback import Pruning
from decathlon.pruning.epoch import Allowance, index_of
from tests.pruning.toy import Lines, Plain

METHOD = {"name": "random", "class": "decathlon.pruning.SoftRandom"}


def fit(data: Lines, pruning: Pruning | None = None, epochs: int = 2, **options: Any) -> tuple[Plain, Pruning]:
    module, pruning = Plain(), pruning or Pruning(METHOD, prune=0.6)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[pruning], limit_val_batches=0, **options,
    )  # fmt: skip
    trainer.fit(module, data)
    return module, pruning


def test_where_a_batch_says_what_it_holds() -> None:
    index = torch.tensor([3, 1])
    assert index_of({"index": index, "x": 1}) is index and index_of({"x": 1}) is None
    assert index_of((torch.zeros(2), index)) is index and index_of([torch.zeros(2), torch.ones(2)]) is None
    assert index_of(torch.zeros(2)) is None and index_of(()) is None


def test_each_sample_as_often_as_it_was_selected() -> None:
    sampler = EpochSampler(6)
    sampler.set_selection(torch.tensor([1, 1, 4]))
    allowance = Allowance(sampler)
    assert allowance.take(torch.tensor([1, 4])).tolist() == [1, 4]
    allowance.take(torch.tensor([1]))
    for wrong in ([1], [0], [4, 5]):
        with pytest.raises(ConfigError, match="read the training set through") as caught:
            allowance.take(torch.tensor(wrong))
        assert "\n" not in str(caught.value)
    for index in (torch.tensor([-2]), torch.tensor([6]), torch.tensor([[1]]), torch.tensor([1.0])):
        with pytest.raises(ConfigError, match="says which samples it holds"):
            Allowance(sampler).take(index)


class Labelled(Lines):
    """Batches (x, y) whose labels are whole numbers, and no positions."""

    def __init__(self) -> None:
        super().__init__()
        x, y, _ = self.tensors.tensors
        self.tensors = TensorDataset(x, y.long())


def test_whole_numbers_that_are_labels_are_no_positions() -> None:
    class Trained(Plain):
        def sample_losses(self, batch: Any) -> torch.Tensor:
            return super().sample_losses((batch[0], batch[1].float()))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.sample_losses(batch).mean()

    for method in (METHOD, {"name": "full", "class": "decathlon.pruning.Full"}):
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, callbacks=[Pruning(method, prune=0.0)],
        )  # fmt: skip
        with pytest.raises(ConfigError, match="give each batch the positions of its samples as `index`"):
            trainer.fit(Trained(), Labelled())


class Forgotten(Lines):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.tensors, self.batch_size, shuffle=True)


class Batched(Lines):
    """Reads through the sampler by a batch sampler of its own."""

    def train_dataloader(self) -> DataLoader:
        batches = torch.utils.data.BatchSampler(self.sampler, self.batch_size, drop_last=False)
        return DataLoader(self.tensors, batch_sampler=batches)


class Stale(Lines):
    """A loader of a kind that nothing is known of, which yields everything."""

    def train_dataloader(self) -> Any:
        batches = [tuple(part[i : i + 8] for part in self.tensors.tensors) for i in range(0, 60, 8)]

        class Everything:
            def __iter__(self) -> Any:
                return iter(batches)

        return Everything()


class Streamed(Lines):
    def train_dataloader(self) -> DataLoader:
        rows = [tuple(part[i] for part in self.tensors.tensors) for i in range(60)]

        class Stream(IterableDataset):
            def __iter__(self) -> Any:
                return iter(rows)

        return DataLoader(Stream(), self.batch_size)


class OtherFold(Lines):
    """The sampler of another set than the loader's."""

    def train_dataloader(self) -> DataLoader:
        part = TensorDataset(*(tensor[:50] for tensor in self.tensors.tensors))
        return DataLoader(part, self.batch_size, sampler=self.sampler)


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (Forgotten, {}, r"would train on everything, whatever is selected: .*sampler=self\.sampler"),
        (Stale, {}, "does not train on"),
        (Streamed, {}, "an IterableDataset cannot be pruned"),
        (OtherFold, {}, "the sampler is of 60 samples, the training set has 50"),
        (Lines, {"overfit_batches": 2}, "overfit_batches reads the first batches only"),
    ],
)
def test_training_on_anything_else_is_refused(data: type[Lines], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        fit(data(), **options)
    assert "\n" not in str(caught.value)


def test_a_batch_sampler_around_the_sampler_is_good() -> None:
    module, _ = fit(Batched())
    assert [len(set(epoch)) for epoch in module.trained.values()] == [24, 24]


def test_a_second_fit_with_the_same_callback_is_a_new_one() -> None:
    """Each fit reads the sampler of its own data: here two folds, one after the other."""
    pruning = Pruning(METHOD, prune=0.5)
    first, _ = fit(Lines(n=60), pruning)
    data = Lines(n=40)
    second, _ = fit(data, pruning)
    assert [len(epoch) for epoch in second.trained.values()] == [20, 20]
    assert pruning.sampler is data.sampler and pruning.samples == 40 and pruning.pruner is not None
    assert pruning.pruner.n == 40 and int(pruning.pruner.count.sum()) == 40
    assert [len(epoch) for epoch in first.trained.values()] == [30, 30]
